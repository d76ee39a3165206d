"""Runs, metrics and models on a real MLflow server: whole, not doubled, and repeatable at any point."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.backends.mlflow import MlflowTracking
from jobs.backends.provenance import flat_params
from jobs.directory.layout import JobFolder
from jobs.directory.records import Shipped, TrialRow, TrialState
from jobs.errors import NoModel, NoRun, TrackingUnavailable
from jobs.interfaces import RunStatus
from jobs.specs import job_spec
from seqae.checkpoints import manifest
from tests.daemons import Daemons
from tests.reports import make_report

pytestmark = pytest.mark.timeout(540)

COUNT = iter(range(1000))


@pytest.fixture
def job_id() -> str:
    return f"job_t{next(COUNT)}"


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path)


@pytest.fixture
def own(daemons: Daemons, tracking: MlflowTracking, job_id: str, tmp_path: Path) -> MlflowTracking:
    """The same server, with an experiment and a model of the test's own."""
    return MlflowTracking(daemons.mlflow.url, tmp_path / "models", experiment=job_id, default_model=job_id)


def _steps(tracking: MlflowTracking, run_id: str, name: str) -> list[int]:
    return [metric.step for metric in tracking._client.get_metric_history(run_id, name)]


def _checkpoint(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    manifest.write(path, iteration=1, metrics={})
    return path


def test_a_run_is_made_once_with_all_params(own: MlflowTracking, job_id: str, tiny: dict[str, Any]) -> None:
    params = flat_params(job_spec.validate_python(tiny))
    run = own.create_run(job_id, "tiny", "train", params)
    assert own.create_run(job_id, "tiny", "train", params) == run
    found = own._client.get_run(run.run_id).data
    assert found.params == {name: str(value) for name, value in params.items()}
    assert found.tags["seqae.job_id"] == job_id
    assert found.tags["seqae.version.torch"]
    assert run.url.endswith(f"/runs/{run.run_id}")


def test_more_than_a_batch_is_shipped_whole(own: MlflowTracking, job_id: str, folder: JobFolder) -> None:
    run = own.create_run(job_id, "x", "train", {})
    for step in range(1, 1301):
        folder.attempt(1).add_metrics(step, {"a": step / 7, "b": 1.0})
    own.ship(folder.path, run.run_id)
    assert _steps(own, run.run_id, "a") == _steps(own, run.run_id, "b") == list(range(1, 1301))


def test_an_attempt_that_resumed_adds_only_what_is_new(own: MlflowTracking, job_id: str, folder: JobFolder) -> None:
    run = own.create_run(job_id, "x", "train", {})
    for step in range(1, 11):
        folder.attempt(1).add_metrics(step, {"loss": 1.0})
    own.ship(folder.path, run.run_id)
    for step in range(11, 16):
        folder.attempt(1).add_metrics(step, {"loss": 1.0})
    # The first attempt is lost here; its last rows were never shipped. The second resumes from step 8.
    for step in range(9, 21):
        folder.attempt(2).add_metrics(step, {"loss": 2.0})
    own.ship(folder.path, run.run_id)
    assert _steps(own, run.run_id, "loss") == list(range(1, 21))


def test_shipping_twice_doubles_nothing(own: MlflowTracking, job_id: str, folder: JobFolder) -> None:
    """Also when the record of what was shipped is older than what was: a crash came between."""
    run = own.create_run(job_id, "x", "train", {})
    attempt = folder.attempt(1)
    for step in range(1, 11):
        attempt.add_metrics(step, {"loss": 1.0})
    attempt.frames.mkdir()
    for step in (5, 10):
        Image.new("L", (8, 8)).save(attempt.frames / f"{step}.png")
    own.ship(folder.path, run.run_id)
    folder.write_shipped(Shipped(run_id=run.run_id, steps={"loss": 4}, frames=5))
    own.ship(folder.path, run.run_id)
    assert _steps(own, run.run_id, "loss") == list(range(1, 11))
    images = [item.path for item in own._client.list_artifacts(run.run_id, "images") if item.path.endswith(".png")]
    assert sorted(name.split("+")[2] for name in images) == ["10", "5"]


def test_a_run_made_in_place_of_a_lost_one_gets_everything(own: MlflowTracking, job_id: str, folder: JobFolder) -> None:
    folder.attempt(1).add_trial(TrialRow(trial=0, state=TrialState.SUCCEEDED, params={}))
    folder.attempt(1).add_metrics(1, {"loss": 1.0})
    folder.trial(0).attempt(1).add_metrics(4, {"val/mse": 0.1})
    for name in ("lost", "new"):
        run = own.create_run(f"{job_id}_{name}", name, "tune", {})
        own.ship(folder.path, run.run_id)
        own.ship(folder.path, run.run_id)
        assert _steps(own, run.run_id, "loss") == [1]
        (trial,) = own._search(f"tags.`mlflow.parentRunId` = '{run.run_id}'")
        assert _steps(own, trial.info.run_id, "val/mse") == [4]
        assert trial.info.status == "FINISHED"


def test_a_search_has_a_run_for_each_trial(own: MlflowTracking, job_id: str, folder: JobFolder) -> None:
    run = own.create_run(job_id, "x", "tune", {})
    attempt = folder.attempt(1)
    for trial, state in enumerate(("succeeded", "stopped", "running", "pending")):
        if state != "pending":
            folder.trial(trial).attempt(1).add_metrics(4, {"val/mse": 0.1})
        row = {"trial": trial, "state": state, "params": {"model.coder.bottleneck": trial}}
        attempt.add_trial(TrialRow.model_validate(row))
    own.ship(folder.path, run.run_id)
    own.ship(folder.path, run.run_id)

    def trials() -> dict[str, str]:
        found = own._search(f"tags.`mlflow.parentRunId` = '{run.run_id}'")
        assert all(_steps(own, child.info.run_id, "val/mse") == [4] for child in found)
        return {child.data.params["model.coder.bottleneck"]: child.info.status for child in found}

    assert trials() == {"0": "FINISHED", "1": "KILLED", "2": "RUNNING"}
    assert [open_.job_id for open_ in own.open_runs()] == [job_id]
    own.close_run(run.run_id, RunStatus.KILLED)
    assert trials() == {"0": "FINISHED", "1": "KILLED", "2": "KILLED"}
    assert own.open_runs() == []


def test_a_closed_run_stays_as_it_is(own: MlflowTracking, job_id: str) -> None:
    run = own.create_run(job_id, "x", "train", {})
    own.close_run(run.run_id, RunStatus.KILLED)
    own.close_run(run.run_id, RunStatus.FINISHED)
    assert own._client.get_run(run.run_id).info.status == "KILLED"


def test_the_champion_is_the_best_on_the_same_scenes(own: MlflowTracking, job_id: str, tmp_path: Path) -> None:
    with pytest.raises(NoModel):
        own.resolve("champion")

    def register(name: str, error: float, scenes: str) -> bool:
        run = own.create_run(name, name, "train", {})
        path = tmp_path / name
        files = path if path.exists() else _checkpoint(path)
        report = make_report(error, test_checksum=scenes)
        return own.register(name, run.run_id, job_id, files, {"test/mse": error}, report).version.is_champion

    assert register("job_a", 0.5, "s1")
    assert not register("job_b", 0.6, "s1")
    assert not register("job_c", 0.1, "s2")
    assert register("job_d", 0.4, "s1")
    assert not register("job_a", 0.5, "s1")
    champion = own.resolve("champion")
    assert (champion.job_id, champion.version, champion.metrics) == ("job_d", "4", {"test/mse": 0.4})
    names = sorted(file.name for file in champion.path.iterdir())
    assert names == ["config.json", "manifest.json", "model.safetensors"]
    model = next(one for one in own.models() if one.name == job_id)
    aliases = {version.version: version.aliases for version in model.versions}
    assert aliases == {"4": ("champion",), "3": ("challenger",), "2": (), "1": ("previous",)}
    assert [version.promotion is not None for version in model.versions] == [True] * 4
    own.rollback(job_id, "ann", "to see")
    assert (own.resolve("champion").version, own.resolve(f"{job_id}@previous").version) == ("1", "4")
    own.promote(job_id, "2", "bob", "to see more")
    moved = next(one for one in own.models() if one.name == job_id)
    assert [(move.version, move.who, move.why) for move in moved.history][:2] == [
        ("2", "bob", "to see more"),
        ("1", "ann", "to see"),
    ]
    own.promote(job_id, "4", "bob", "")
    assert own.resolve("job_b").version == own.resolve("2").version == "2"
    assert len(own._client.search_model_versions(f"name = '{job_id}'")) == 4


@pytest.mark.parametrize("selector", ["77", "job_unknown", "", "x' or '1", "../..", "²"])
def test_an_unknown_model_is_told(own: MlflowTracking, selector: str) -> None:
    with pytest.raises(NoModel):
        own.resolve(selector)


def test_a_run_that_the_server_lost(own: MlflowTracking, folder: JobFolder) -> None:
    folder.attempt(1).add_metrics(1, {"loss": 1.0})
    with pytest.raises(NoRun):
        own.ship(folder.path, "0" * 32)
    with pytest.raises(NoRun):
        own.close_run("0" * 32, RunStatus.KILLED)


def test_the_curve_is_whole_after_the_server_was_away(
    daemons: Daemons, own: MlflowTracking, job_id: str, folder: JobFolder
) -> None:
    run = own.create_run(job_id, "x", "train", {})
    attempt = folder.attempt(1)
    for step in range(1, 6):
        attempt.add_metrics(step, {"loss": 1.0})
    own.ship(folder.path, run.run_id)
    daemons.kill(daemons.mlflow)
    for step in range(6, 11):
        attempt.add_metrics(step, {"loss": 1.0})
    with pytest.raises(TrackingUnavailable):
        own.ship(folder.path, run.run_id)
    assert json.loads((folder.path / "shipped.json").read_bytes())["steps"] == {"loss": 5}
    daemons.start(daemons.mlflow)
    daemons.wait(daemons.mlflow)
    own.ship(folder.path, run.run_id)
    assert _steps(own, run.run_id, "loss") == list(range(1, 11))


_AT_ONCE = """
import threading
from pathlib import Path
from jobs.errors import TrackingUnavailable
from jobs.backends.mlflow import MlflowTracking

tracking = MlflowTracking("http://127.0.0.1:9", Path("."))
calls = [lambda: tracking.resolve("champion"), tracking.open_runs, lambda: tracking.create_run("j", "n", "train", {})]
together = threading.Barrier(12)
found = []

def call(number):
    together.wait()
    try:
        calls[number % 3]()
    except Exception as error:
        found.append(type(error).__name__)

threads = [threading.Thread(target=call, args=(number,)) for number in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(set(found)), len(found))
"""


def test_threads_that_need_mlflow_at_once_all_get_it() -> None:
    """A control plane starts with several; half-imported modules made it useless until it was started again."""
    done = subprocess.run([sys.executable, "-c", _AT_ONCE], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "['TrackingUnavailable'] 12", done.stderr
