"""What is sent to MLflow, by a client in memory. That a real server takes it is tested with one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from PIL import Image

from jobs.backends.mlflow import MlflowTracking
from jobs.directory.layout import JobFolder
from jobs.directory.records import NoteKind, Shipped, TrialRow, TrialState
from jobs.errors import NoRun, TrackingUnavailable
from jobs.interfaces import RunStatus

Points = list[tuple[str, int, float]]


@dataclass
class _Run:
    """A run, and what was sent to it."""

    tags: dict[str, str]
    status: str = "RUNNING"
    params: dict[str, str] = field(default_factory=dict)
    calls: list[Points] = field(default_factory=list)
    """Name, step and value of each point, one entry a call."""
    images: list[int] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)

    @property
    def points(self) -> Points:
        return [point for call in self.calls for point in call]


class _Pages(list[Any]):
    token = None


class _Client:
    """The part of MLflow's client that sends runs."""

    def __init__(self) -> None:
        self.runs: dict[str, _Run] = {}
        self.error: Exception | None = None
        """Raised by the next call that sends metrics."""

    def get_experiment_by_name(self, _: str) -> Any:
        return SimpleNamespace(experiment_id="1")

    def search_runs(self, _: Sequence[str], query: str, **__: Any) -> Any:
        conditions = [part.split(" = ") for part in query.split(" and ")]
        wanted = {name.removeprefix("tags.").strip("`"): value.strip("'") for name, value in conditions}
        status = wanted.pop("attributes.status", None)
        return _Pages(
            self.get_run(run_id)
            for run_id, run in self.runs.items()
            if wanted.items() <= run.tags.items() and status in (None, run.status)
        )

    def create_run(self, _: str, tags: Mapping[str, str], run_name: str) -> Any:
        run_id = f"run-{len(self.runs) + 1}"
        self.runs[run_id] = _Run(dict(tags) | {"name": run_name})
        return self.get_run(run_id)

    def get_run(self, run_id: str) -> Any:
        if run_id not in self.runs:
            raise MlflowException("no such run", RESOURCE_DOES_NOT_EXIST)
        run = self.runs[run_id]
        info = SimpleNamespace(run_id=run_id, status=run.status)
        return SimpleNamespace(info=info, data=SimpleNamespace(tags=run.tags))

    def set_terminated(self, run_id: str, status: str) -> None:
        self.runs[run_id].status = status

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        self.runs[run_id].tags[name] = value

    def log_batch(self, run_id: str, metrics: Sequence[Any] = (), params: Sequence[Any] = ()) -> None:
        run = self.runs[run_id]
        run.params |= {param.key: param.value for param in params}
        if metrics:
            if self.error is not None:
                error, self.error = self.error, None
                raise error
            run.calls.append([(metric.key, metric.step, metric.value) for metric in metrics])

    def list_artifacts(self, run_id: str, _: str) -> list[Any]:
        return [SimpleNamespace(path=f"images/frames+step+{step}+x.png") for step in self.runs[run_id].images]

    def log_image(self, run_id: str, _: Any, key: str, step: int) -> None:
        assert key == "frames"
        self.runs[run_id].images.append(step)

    def log_artifact(self, run_id: str, path: str) -> None:
        self.runs[run_id].artifacts.append(Path(path).name)


@pytest.fixture
def client() -> _Client:
    return _Client()


@pytest.fixture
def tracking(client: _Client, tmp_path: Path) -> MlflowTracking:
    return MlflowTracking("http://mlflow.invalid", tmp_path / "models", new_client=lambda _: client)


@pytest.fixture
def run_id(tracking: MlflowTracking) -> str:
    return tracking.create_run("job_1", "tiny", "train", {"seed": 1}).run_id


@pytest.fixture
def run(client: _Client, run_id: str) -> _Run:
    return client.runs[run_id]


def test_a_run_is_made_once(tracking: MlflowTracking, client: _Client, run_id: str, run: _Run) -> None:
    again = tracking.create_run("job_1", "tiny", "train", {"seed": 1})
    assert (again.run_id, list(client.runs)) == (run_id, [run_id])
    assert again.url == f"http://mlflow.invalid/#/experiments/1/runs/{run_id}"
    assert (run.tags["seqae.job_id"], run.tags["seqae.kind"], run.params) == ("job_1", "train", {"seed": "1"})


def test_a_closed_run_stays_as_it_is(tracking: MlflowTracking, run_id: str, run: _Run) -> None:
    tracking.close_run(run_id, RunStatus.KILLED)
    tracking.close_run(run_id, RunStatus.FINISHED)
    assert run.status == "KILLED"
    assert tracking.open_runs() == []


def test_a_second_ship_sends_nothing(tracking: MlflowTracking, folder: JobFolder, run_id: str, run: _Run) -> None:
    attempt = folder.attempt(1)
    for step in (1, 2, 3):
        attempt.add_metrics(step, {"train/loss": step / 10, "train/mse": 0.5})
    attempt.frames.mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(attempt.frames / "2.png")
    attempt.artifacts.mkdir()
    (attempt.artifacts / "figure-7.json").write_text("{}")
    attempt.add_note(NoteKind.DATA, "scenes of digits")
    tracking.ship(folder.path, run_id)
    expected = [
        (name, step, value) for step in (1, 2, 3) for name, value in (("train/loss", step / 10), ("train/mse", 0.5))
    ]
    assert run.points == expected
    assert (run.images, run.artifacts, run.tags["seqae.dataset"]) == ([2], ["figure-7.json"], "scenes of digits")
    tracking.ship(folder.path, run_id)
    assert len(run.calls) == 1, "no point is sent a second time"
    assert (run.images, run.artifacts) == ([2], ["figure-7.json"])
    assert json.loads((folder.path / "shipped.json").read_text()) == {
        "run_id": run_id,
        "steps": {"train/loss": 3, "train/mse": 3},
        "frames": 2,
        "artifacts": ["figure-7.json"],
        "seqae.dataset": "scenes of digits",
    }


def test_only_what_is_new_is_sent(tracking: MlflowTracking, folder: JobFolder, run_id: str, run: _Run) -> None:
    folder.attempt(1).add_metrics(1, {"train/loss": 0.1})
    tracking.ship(folder.path, run_id)
    # A later attempt repeats step 1; the first record counts.
    folder.attempt(2).add_metrics(1, {"train/loss": 0.9})
    folder.attempt(2).add_metrics(2, {"train/loss": 0.2})
    tracking.ship(folder.path, run_id)
    assert run.calls == [[("train/loss", 1, 0.1)], [("train/loss", 2, 0.2)]]


def test_a_call_sends_a_thousand_points_at_most(
    tracking: MlflowTracking, folder: JobFolder, run_id: str, run: _Run
) -> None:
    for step in range(300):
        folder.attempt(1).add_metrics(step, {f"m{number}": 1.0 for number in range(8)})
    tracking.ship(folder.path, run_id)
    assert [len(call) for call in run.calls] == [1000, 1000, 400]


def test_what_was_sent_before_the_server_went_away_is_not_sent_again(
    tracking: MlflowTracking, client: _Client, folder: JobFolder, run_id: str, run: _Run
) -> None:
    folder.attempt(1).add_metrics(1, {"train/loss": 0.1})
    tracking.ship(folder.path, run_id)
    folder.attempt(1).add_metrics(2, {"train/loss": 0.2})
    client.error = MlflowException("down", TEMPORARILY_UNAVAILABLE)
    with pytest.raises(TrackingUnavailable):
        tracking.ship(folder.path, run_id)
    assert folder.read_shipped().steps == {"train/loss": 1}
    tracking.ship(folder.path, run_id)
    assert run.points == [("train/loss", 1, 0.1), ("train/loss", 2, 0.2)]


def test_a_run_in_place_of_a_lost_one_gets_all(
    tracking: MlflowTracking, client: _Client, folder: JobFolder, run_id: str
) -> None:
    folder.attempt(1).add_metrics(1, {"train/loss": 0.1})
    tracking.ship(folder.path, run_id)
    client.runs.clear()
    with pytest.raises(NoRun):
        tracking.close_run(run_id, RunStatus.FINISHED)
    client.runs["run-0"] = _Run({})
    tracking.ship(folder.path, "run-0")
    assert client.runs["run-0"].points == [("train/loss", 1, 0.1)]
    assert folder.read_shipped() == Shipped(run_id="run-0", steps={"train/loss": 1})


def test_trials_have_runs_of_their_own_that_are_closed_once(
    tracking: MlflowTracking, client: _Client, folder: JobFolder, run_id: str
) -> None:
    states = [TrialState.SUCCEEDED, TrialState.STOPPED, TrialState.FAILED, TrialState.RUNNING, TrialState.PENDING]
    for trial, state in enumerate(states):
        folder.trial(trial).attempt(1).add_metrics(4, {"test/mse": 0.1})
        folder.attempt(1).add_trial(TrialRow(trial=trial, state=state, params={"bottleneck": trial}))
    for _ in range(2):
        tracking.ship(folder.path, run_id)
    trials = {run.params["bottleneck"]: run for run in client.runs.values() if "seqae.trial" in run.tags}
    statuses = {number: run.status for number, run in trials.items()}
    assert statuses == {"0": "FINISHED", "1": "KILLED", "2": "FAILED", "3": "RUNNING"}
    assert all(len(run.calls) == 1 for run in trials.values())
    assert folder.trial(0).read_shipped().closed_below == run_id
    assert folder.trial(3).read_shipped().closed_below is None
    assert [run.job_id for run in tracking.open_runs()] == ["job_1"]
    tracking.close_run(run_id, RunStatus.KILLED)
    assert trials["3"].status == "KILLED"
    assert trials["0"].status == "FINISHED", "one that has ended stays as it is"
