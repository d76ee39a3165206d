"""What is sent to MLflow, by a client in memory. That a real server takes it is tested with one."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)
from PIL import Image

from jobs.backends.mlflow import MlflowTracking
from jobs.backends.mlflow_client import mapped_errors
from jobs.backends.mlflow_shipping import TRIALS_TABLE
from jobs.directory.layout import JobFolder
from jobs.directory.records import DatasetRecord, NoteKind, Outcome, Result, Shipped, StartRecord, TrialRow, TrialState
from jobs.errors import NoRun, TrackingRefused, TrackingUnavailable
from jobs.interfaces import RunDetails, RunStatus
from tests.unit.jobs.backends.fake_client import FakeClient, FakeExperiment, FakeRun

DETAILS = RunDetails("seqae-mnist_scenes", "ann", "name: tiny\n")


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def tracking(client: FakeClient, tmp_path: Path) -> MlflowTracking:
    return MlflowTracking("http://mlflow.invalid", tmp_path / "models", new_client=lambda _: client)


@pytest.fixture
def run_id(tracking: MlflowTracking) -> str:
    return tracking.create_run("job_1", "tiny", "train", {"seed": 1}, DETAILS).run_id


@pytest.fixture
def run(client: FakeClient, run_id: str) -> FakeRun:
    return client.runs[run_id]


def test_a_run_is_made_once(tracking: MlflowTracking, client: FakeClient, run_id: str, run: FakeRun) -> None:
    again = tracking.create_run("job_1", "tiny", "train", {"seed": 1}, DETAILS)
    assert (again.run_id, list(client.runs)) == (run_id, [run_id])
    assert (run.tags["seqae.job_id"], run.tags["seqae.kind"], run.params) == ("job_1", "train", {"seed": "1"})


def test_links_open_the_view_of_training(tracking: MlflowTracking, run: FakeRun) -> None:
    """F8: MLflow's pages open in their view of language models unless the address says otherwise."""
    made = tracking.create_run("job_2", "tiny", "train", {}, DETAILS)
    assert made.url == f"http://mlflow.invalid/#/experiments/1/runs/{made.run_id}?workflowType=machine_learning"
    note = "(#/experiments/1/runs?viewStateShareKey=seqae&workflowType=machine_learning)"
    assert note in run.tags["mlflow.note.content"]


def test_a_run_tells_its_owner_its_source_and_its_whole_config(run: FakeRun) -> None:
    assert run.name == "tiny (1)"
    assert run.tags["mlflow.user"] == "ann"
    assert (run.tags["mlflow.source.type"], run.tags["mlflow.source.name"]) == ("JOB", "jobs.train")
    assert run.texts == {"config.yaml": "name: tiny\n"}


def test_jobs_of_the_same_name_have_runs_of_other_names(tracking: MlflowTracking, client: FakeClient) -> None:
    for job in ("job_1a2b3c4d5e6f", "job_f1a2b3c4d5e6"):
        tracking.create_run(job, "digits", "train", {})
    assert [run.name for run in client.runs.values()] == ["digits (1a2b3c)", "digits (f1a2b3)"]


def test_each_registered_model_has_an_experiment(tracking: MlflowTracking, client: FakeClient, run: FakeRun) -> None:
    coco = tracking.create_run("job_2", "coco", "train", {}, RunDetails("seqae-images-coco"))
    figure = tracking.create_run("job_3", "figure", "figure", {})
    names = {one.experiment_id: one.name for one in client.experiments.values()}
    assert names[run.experiment_id] == "seqae-mnist_scenes"
    assert names[client.runs[coco.run_id].experiment_id] == "seqae-images-coco"
    assert names[client.runs[figure.run_id].experiment_id] == "seqae", "one that is about no model that is known"
    assert {found.job_id for found in tracking.open_runs()} == {"job_1", "job_2", "job_3"}


def test_a_run_of_an_older_release_is_found_where_it_is(tracking: MlflowTracking, client: FakeClient) -> None:
    client.experiments["1"] = FakeExperiment("1", "seqae")
    client.runs["old"] = FakeRun("1", {"seqae.job_id": "job_old"}, params={"seed": "0", "trials": "8"})
    found = tracking.create_run("job_old", "old", "train", {"seed": 1, "model.steps": 4}, DETAILS)
    assert found.run_id == "old"
    assert found.url.startswith("http://mlflow.invalid/#/experiments/1/runs/old?")
    assert client.runs["old"].params == {"seed": "0", "trials": "8", "model.steps": "4"}, "what it has stays"
    assert [open_.job_id for open_ in tracking.open_runs()] == ["job_old"]


def test_an_experiment_has_a_view_with_the_scores_as_columns(client: FakeClient, run: FakeRun) -> None:
    tags = client.experiments["1"].tags
    columns = json.loads(tags["mlflow.sharedViewState.seqae"])["selectedColumns"]
    assert {"metrics.`test/mse`", "metrics.`test/fg_ari`", "metrics.`val/mse`"} <= set(columns)
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_what_a_person_wrote_about_an_experiment_stays(tracking: MlflowTracking, client: FakeClient) -> None:
    client.experiments["1"] = FakeExperiment("1", "seqae", {"mlflow.note.content": "mine"})
    tracking.create_run("job_1", "x", "train", {})
    assert client.experiments["1"].tags["mlflow.note.content"] == "mine"


# --- what a person does in MLflow's pages


@pytest.fixture
def calls(tracking: MlflowTracking, folder: JobFolder) -> dict[str, Callable[[str], object]]:
    """Everything that is given a run's id."""
    folder.attempt(1).add_metrics(1, {"train/loss": 0.1})
    return {
        "ship": lambda run_id: tracking.ship(folder.path, run_id),
        "close": lambda run_id: tracking.close_run(run_id, RunStatus.KILLED),
        "trial": lambda run_id: tracking.create_trial_run(run_id, 0, {}),
        "register": lambda run_id: tracking.register("job_1", run_id, "m", folder.path, {}, None),
    }


@pytest.mark.parametrize("call", ["ship", "close", "trial", "register"])
def test_a_run_that_a_person_deleted_is_unknown_and_another_is_made(
    tracking: MlflowTracking, client: FakeClient, run_id: str, calls: dict[str, Callable[[str], object]], call: str
) -> None:
    """A2: an error of this job, and no outage; the run that is made in its place is another."""
    client.delete_run(run_id)
    with pytest.raises(NoRun, match="deleted"):
        calls[call](run_id)
    assert tracking.create_run("job_1", "tiny", "train", {}, DETAILS).run_id != run_id


def test_a_run_that_is_deleted_while_it_is_sent_to_is_unknown_too(
    tracking: MlflowTracking, client: FakeClient, folder: JobFolder, run_id: str
) -> None:
    """A2: the server then says that it does not take what it was sent."""
    folder.attempt(1).add_metrics(1, {"train/loss": 0.1})
    client.before_metrics = lambda: client.delete_run(run_id)
    with pytest.raises(NoRun):
        tracking.ship(folder.path, run_id)


def test_what_the_server_does_not_take_is_this_jobs_error(
    tracking: MlflowTracking, client: FakeClient, folder: JobFolder, run_id: str
) -> None:
    """A2: it is no outage, which would hold up all other jobs."""
    folder.attempt(1).add_metrics(1, {"train/loss": 0.1})
    client.error = MlflowException("a bad name", INVALID_PARAMETER_VALUE)
    with pytest.raises(TrackingRefused, match="a bad name"):
        tracking.ship(folder.path, run_id)


def _answer(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("refused", response=response)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MlflowException("x", TEMPORARILY_UNAVAILABLE), TrackingUnavailable),
        (MlflowException("no such host is allowed", PERMISSION_DENIED), TrackingUnavailable),
        (MlflowException("the connection broke"), TrackingUnavailable),
        (requests.ConnectionError("refused"), TrackingUnavailable),
        (_answer(503), TrackingUnavailable),
        (_answer(413), TrackingRefused),
        (MlflowException("x", RESOURCE_DOES_NOT_EXIST), NoRun),
    ],
)
def test_only_outages_are_outages(error: Exception, kind: type[Exception]) -> None:
    """A2: an error that a job causes is that job's own; one that meets all jobs is the server's."""
    with pytest.raises(kind), mapped_errors():
        raise error


def test_a_deleted_experiment_is_restored(tracking: MlflowTracking, client: FakeClient, run_id: str) -> None:
    """A4: and with it the runs that are in it."""
    client.delete_experiment("1")
    assert tracking.create_run("job_1", "tiny", "train", {}, DETAILS).run_id == run_id
    assert tracking.create_run("job_2", "tiny", "train", {}, DETAILS).run_id != run_id
    assert client.experiments["1"].lifecycle_stage == "active"


def test_a_deleted_experiment_that_can_not_be_restored_is_named(
    tracking: MlflowTracking, client: FakeClient, run_id: str
) -> None:
    """A4: it is the error of the jobs whose runs belong there, and no outage."""
    client.delete_experiment("1")
    client.restores = False
    with pytest.raises(TrackingRefused, match="'seqae-mnist_scenes' was deleted"):
        tracking.create_run("job_2", "tiny", "train", {}, DETAILS)
    assert tracking.create_run("job_3", "other", "train", {}).run_id


def test_an_experiment_that_is_gone_for_good_is_made_again(
    tracking: MlflowTracking, client: FakeClient, run_id: str
) -> None:
    """A4: no id of it is kept from call to call."""
    client.experiments.clear()
    client.runs.clear()
    made = tracking.create_run("job_2", "tiny", "train", {}, DETAILS)
    assert client.experiments[client.runs[made.run_id].experiment_id].name == "seqae-mnist_scenes"


# --- shipping


def test_a_closed_run_stays_as_it_is(tracking: MlflowTracking, run_id: str, run: FakeRun) -> None:
    tracking.close_run(run_id, RunStatus.KILLED)
    tracking.close_run(run_id, RunStatus.FINISHED)
    assert run.status == "KILLED"
    assert tracking.open_runs() == []


def test_a_second_ship_sends_nothing(tracking: MlflowTracking, folder: JobFolder, run_id: str, run: FakeRun) -> None:
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
    assert (len(run.images), run.artifacts, run.tags["seqae.dataset"]) == (2, ["figure-7.json"], "scenes of digits")
    sent = list(run.images)
    tracking.ship(folder.path, run_id)
    assert len(run.calls) == 1, "no point is sent a second time"
    assert (run.images, run.artifacts) == (sent, ["figure-7.json"])
    assert json.loads((folder.path / "shipped.json").read_text()) == {
        "run_id": run_id,
        "steps": {"train/loss": 3, "train/mse": 3},
        "frames": 2,
        "artifacts": ["figure-7.json"],
        "seqae.dataset": "scenes of digits",
    }


def test_the_model_that_training_started_from_is_a_tag(
    tracking: MlflowTracking, folder: JobFolder, run_id: str, run: FakeRun
) -> None:
    tracking.ship(folder.path, run_id)
    assert "seqae.start_from" not in run.tags
    folder.write_start(StartRecord(model="cells/3", iteration=1600))
    tracking.ship(folder.path, run_id)
    assert run.tags["seqae.start_from"] == "cells/3"
    assert folder.read_shipped().start_from == "cells/3"
    run.tags.clear()
    tracking.ship(folder.path, run_id)
    assert run.tags == {}, "sent once"
    (folder.path / "start.json").write_text("{")
    tracking.ship(folder.path, run_id)


def test_only_what_is_new_is_sent(tracking: MlflowTracking, folder: JobFolder, run_id: str, run: FakeRun) -> None:
    folder.attempt(1).add_metrics(1, {"train/loss": 0.1})
    tracking.ship(folder.path, run_id)
    # A later attempt repeats step 1; the first record counts.
    folder.attempt(2).add_metrics(1, {"train/loss": 0.9})
    folder.attempt(2).add_metrics(2, {"train/loss": 0.2})
    tracking.ship(folder.path, run_id)
    assert run.calls == [[("train/loss", 1, 0.1)], [("train/loss", 2, 0.2)]]


def test_a_call_sends_a_thousand_points_at_most(
    tracking: MlflowTracking, folder: JobFolder, run_id: str, run: FakeRun
) -> None:
    for step in range(300):
        folder.attempt(1).add_metrics(step, {f"m{number}": 1.0 for number in range(8)})
    tracking.ship(folder.path, run_id)
    assert [len(call) for call in run.calls] == [1000, 1000, 400]


def test_what_was_sent_before_the_server_went_away_is_not_sent_again(
    tracking: MlflowTracking, client: FakeClient, folder: JobFolder, run_id: str, run: FakeRun
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
    tracking: MlflowTracking, client: FakeClient, folder: JobFolder, run_id: str
) -> None:
    folder.attempt(1).add_metrics(1, {"train/loss": 0.1})
    tracking.ship(folder.path, run_id)
    client.runs.clear()
    with pytest.raises(NoRun):
        tracking.close_run(run_id, RunStatus.FINISHED)
    client.runs["run-0"] = FakeRun("1", {})
    tracking.ship(folder.path, "run-0")
    assert client.runs["run-0"].points == [("train/loss", 1, 0.1)]
    assert folder.read_shipped() == Shipped(run_id="run-0", steps={"train/loss": 1})


def test_trials_have_runs_of_their_own_that_are_closed_once(
    tracking: MlflowTracking, client: FakeClient, folder: JobFolder, run_id: str
) -> None:
    states = [TrialState.SUCCEEDED, TrialState.STOPPED, TrialState.FAILED, TrialState.RUNNING, TrialState.PENDING]
    for trial, state in enumerate(states):
        folder.trial(trial).attempt(1).add_metrics(4, {"test/mse": 0.1})
        reason = "stopped by asha" if state is TrialState.STOPPED else None
        params: dict[str, bool | int | float | str] = {"coder.bottleneck": trial, "localizer.kind": "small"}
        folder.attempt(1).add_trial(TrialRow(trial=trial, state=state, params=params, message=reason))
    for _ in range(2):
        tracking.ship(folder.path, run_id)
    trials = {run.params["coder.bottleneck"]: run for run in client.runs.values() if "seqae.trial" in run.tags}
    statuses = {number: run.status for number, run in trials.items()}
    assert statuses == {"0": "FINISHED", "1": "KILLED", "2": "FAILED", "3": "RUNNING"}
    assert all(len(run.calls) == 1 for run in trials.values())
    assert trials["2"].name == "trial 2: bottleneck=2, kind=small"
    reasons = {number: run.tags.get("seqae.why_it_ended") for number, run in trials.items()}
    assert reasons == {"0": None, "1": "stopped by asha", "2": None, "3": None}
    assert trials["2"].params["seed"] == "1", "what the search has at other values than the defaults"
    assert folder.trial(0).read_shipped().closed_below == run_id
    assert folder.trial(3).read_shipped().closed_below is None
    assert [run.job_id for run in tracking.open_runs()] == ["job_1"]
    tracking.close_run(run_id, RunStatus.KILLED)
    assert trials["3"].status == "KILLED"
    assert trials["0"].status == "FINISHED", "one that has ended stays as it is"


def test_film_strips_are_sent_at_a_constant_cost_under_names_that_mlflow_reads(
    tracking: MlflowTracking, client: FakeClient, folder: JobFolder, run_id: str, run: FakeRun
) -> None:
    """A7: no list of all pictures is asked for, and one that is sent twice has the same name."""
    attempt = folder.attempt(1)
    attempt.frames.mkdir(parents=True)
    for step in (20, 40):
        Image.new("RGB", (1400, 800)).save(attempt.frames / f"{step}.png")
        tracking.ship(folder.path, run_id)
    small, first, _, second = run.images
    assert first.removesuffix(".png") == small.removesuffix("+compressed.webp")
    key, *rest = first.split("+")
    assert (key, rest[:2], second.split("+")[2]) == ("canvas~val", ["step", "20"], "40")
    assert rest[2] == "timestamp"
    assert rest[3].isdecimal()
    assert run.tags["mlflow.loggedImages"] == "True"
    # A crash came between sending and recording it.
    folder.write_shipped(Shipped(run_id=run_id, frames=20))
    tracking.ship(folder.path, run_id)
    assert len(set(run.images)) == 4
    assert client.listed == 0


def test_a_damaged_film_strip_holds_nothing_up(
    tracking: MlflowTracking, folder: JobFolder, run_id: str, run: FakeRun
) -> None:
    attempt = folder.attempt(1)
    attempt.add_metrics(1, {"train/loss": 0.1})
    attempt.frames.mkdir(parents=True)
    (attempt.frames / "1.png").write_bytes(b"no picture")
    Image.new("RGB", (2, 2)).save(attempt.frames / "2.png")
    tracking.ship(folder.path, run_id)
    assert [name.split("+")[2] for name in run.images] == ["2", "2"]
    assert folder.read_shipped().frames == 2


def test_a_damaged_record_of_what_was_sent_sends_everything_again(
    tracking: MlflowTracking, folder: JobFolder, run_id: str, run: FakeRun
) -> None:
    folder.attempt(1).add_metrics(1, {"train/loss": 0.1})
    (folder.path / "shipped.json").write_text("{")
    tracking.ship(folder.path, run_id)
    assert run.points == [("train/loss", 1, 0.1)]
    assert folder.read_shipped().run_id == run_id


def test_the_data_set_is_the_runs_input(tracking: MlflowTracking, folder: JobFolder, run_id: str, run: FakeRun) -> None:
    checksum = hashlib.sha256(b"data").hexdigest()
    folder.attempt(1).write_data(
        DatasetRecord(
            name="coco", source="100 images", location="coco/train", checksum=checksum, test_checksum="t",
            train=80, val=10, test=10,
        )
    )  # fmt: skip
    for _ in range(2):
        tracking.ship(folder.path, run_id)
    (sent,) = run.inputs
    assert (sent.dataset.name, sent.dataset.digest) == ("coco", checksum[:16])
    assert json.loads(sent.dataset.source)["uri"] == "coco/train"
    assert [(tag.key, tag.value) for tag in sent.tags] == [("mlflow.data.context", "training")]


def test_a_search_has_a_table_of_its_trials_and_in_the_end_the_best_ones_params(
    tracking: MlflowTracking, client: FakeClient, folder: JobFolder, run_id: str, run: FakeRun
) -> None:
    """F7: under the names that the trials' own runs have."""
    attempt = folder.attempt(1)
    for trial, error in enumerate((0.2, 0.1)):
        metrics = {"val/mse": error, "val/mse_step_1": 0.3}
        params = {"model.coder.bottleneck": 4 * (trial + 1)}
        attempt.add_trial(TrialRow(trial=trial, state=TrialState.SUCCEEDED, params=params, metrics=metrics, epoch=3))
    tracking.ship(folder.path, run_id)
    table = json.loads(run.texts[TRIALS_TABLE])
    assert table["columns"] == ["trial", "state", "bottleneck", "val/mse", "epoch", "message"]
    assert table["data"] == [[0, "succeeded", 4, 0.2, 3.0, None], [1, "succeeded", 8, 0.1, 3.0, None]]
    assert json.loads(run.tags["mlflow.loggedArtifacts"]) == [{"path": TRIALS_TABLE, "type": "table"}]
    assert "model.coder.bottleneck" not in run.params, "the search is not over"
    run.texts.clear()
    attempt.write_result(Result(outcome=Outcome.SUCCEEDED, metrics={"best_trial": 1.0}))
    for _ in range(2):
        tracking.ship(folder.path, run_id)
    assert run.params["model.coder.bottleneck"] == "8"
    assert run.texts == {}, "the table has not changed"
