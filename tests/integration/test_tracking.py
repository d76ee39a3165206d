"""Runs, metrics and models on a real MLflow server: whole, not doubled, and repeatable at any point."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from jobs.backends.mlflow import MlflowTracking
from jobs.backends.provenance import changed_params, run_details
from jobs.directory.layout import JobFolder
from jobs.directory.records import DatasetRecord, Outcome, Result, Shipped, TrialRow, TrialState
from jobs.errors import NoModel, NoRun, TrackingRefused, TrackingUnavailable
from jobs.interfaces import RunDetails, RunStatus
from jobs.specs import job_spec
from seqae.checkpoints import manifest
from tests.daemons import Daemons
from tests.reports import make_report
from tests.services import run_id_of, trial_runs

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


def test_a_run_is_made_once_with_its_params_and_its_config(
    own: MlflowTracking, job_id: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    spec = job_spec.validate_python(tiny | {"register_as": f"model-{job_id}"})
    params, details = changed_params(spec), run_details(spec, "ann")
    run = own.create_run(job_id, "tiny", "train", params, details)
    assert own.create_run(job_id, "tiny", "train", params, details) == run
    found = own._client.get_run(run.run_id)
    assert found.data.params == {name: str(value) for name, value in params.items()}
    assert found.data.tags["seqae.job_id"] == job_id
    assert found.data.tags["seqae.version.torch"]
    assert found.info.user_id == "ann"
    assert own._client.get_experiment(found.info.experiment_id).name == f"model-{job_id}"
    config = own._client.download_artifacts(run.run_id, "config.yaml", str(tmp_path))
    assert yaml.safe_load(Path(config).read_text()) == spec.model_dump(mode="json")
    assert run_id_of(run.url) == run.run_id


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
        (trial,) = trial_runs(own, run.run_id)
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
        found = trial_runs(own, run.run_id)
        assert all(_steps(own, child.info.run_id, "val/mse") == [4] for child in found)
        return {child.data.params["model.coder.bottleneck"]: child.info.status for child in found}

    assert trials() == {"0": "FINISHED", "1": "KILLED", "2": "RUNNING"}
    assert job_id in [open_.job_id for open_ in own.open_runs()]
    own.close_run(run.run_id, RunStatus.KILLED)
    assert trials() == {"0": "FINISHED", "1": "KILLED", "2": "KILLED"}
    assert job_id not in [open_.job_id for open_ in own.open_runs()]


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
    (logged,) = json.loads(own._client.get_run(champion.run_id).data.tags["mlflow.log-model.history"])
    assert (logged["run_id"], logged["artifact_path"]) == (champion.run_id, "model"), "its table names the model"
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


# --- what a person does in MLflow's pages


def test_a_run_that_a_person_deleted(own: MlflowTracking, job_id: str, folder: JobFolder) -> None:
    """A2: it is unknown to whoever sends to it, closes it or registers its model, and another is made in its place."""
    folder.attempt(1).add_metrics(1, {"loss": 1.0})
    run = own.create_run(job_id, "x", "train", {})
    own._client.delete_run(run.run_id)
    for call in (
        lambda: own.ship(folder.path, run.run_id),
        lambda: own.close_run(run.run_id, RunStatus.KILLED),
        lambda: own.create_trial_run(run.run_id, 0, {}),
        lambda: own.register(job_id, run.run_id, job_id, folder.path, {}, None),
    ):
        with pytest.raises(NoRun):
            call()
    assert job_id not in [open_.job_id for open_ in own.open_runs()]
    another = own.create_run(job_id, "x", "train", {})
    assert another.run_id != run.run_id
    own.ship(folder.path, another.run_id)
    assert _steps(own, another.run_id, "loss") == [1]


def test_a_trials_run_that_a_person_deleted_is_made_again(own: MlflowTracking, job_id: str, folder: JobFolder) -> None:
    """A2: and that of the search stays."""
    folder.attempt(1).add_trial(TrialRow(trial=0, state=TrialState.RUNNING, params={}))
    folder.trial(0).attempt(1).add_metrics(4, {"val/mse": 0.1})
    run = own.create_run(job_id, "x", "tune", {})
    own.ship(folder.path, run.run_id)
    (trial,) = trial_runs(own, run.run_id)
    own._client.delete_run(trial.info.run_id)
    own.ship(folder.path, run.run_id)
    (another,) = trial_runs(own, run.run_id)
    assert _steps(own, another.info.run_id, "val/mse") == [4]


def test_what_the_server_does_not_take_is_no_outage(own: MlflowTracking, job_id: str, folder: JobFolder) -> None:
    """A2: it is the error of the job that sent it."""
    run = own.create_run(job_id, "x", "train", {})
    folder.attempt(1).add_metrics(1, {"what? is this": 1.0})
    with pytest.raises(TrackingRefused):
        own.ship(folder.path, run.run_id)


def test_an_experiment_that_a_person_deleted(own: MlflowTracking, job_id: str, folder: JobFolder) -> None:
    """A4: its runs are unknown; whoever makes the next one restores it, and finds the runs that were in it."""
    details = RunDetails(experiment=f"model-{job_id}")
    run = own.create_run(job_id, "x", "train", {}, details)
    client = own._client
    client.delete_experiment(client.get_run(run.run_id).info.experiment_id)
    with pytest.raises(NoRun):
        own.ship(folder.path, run.run_id)
    assert own.create_run(job_id, "x", "train", {}, details) == run
    own.ship(folder.path, run.run_id)


def test_an_experiment_that_a_person_renamed(own: MlflowTracking, job_id: str, folder: JobFolder) -> None:
    """A4: the runs in it are found there, and the next one has an experiment of the model's name again."""
    details = RunDetails(experiment=f"model-{job_id}")
    run = own.create_run(job_id, "x", "train", {}, details)
    client = own._client
    experiment = client.get_run(run.run_id).info.experiment_id
    client.rename_experiment(experiment, f"renamed-{job_id}")
    assert own.create_run(job_id, "x", "train", {}, details) == run
    assert (
        client.get_run(own.create_run(f"{job_id}_2", "x", "train", {}, details).run_id).info.experiment_id != experiment
    )
    own.close_run(run.run_id, RunStatus.FINISHED)
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_a_run_shows_its_data_set_and_a_search_its_trials(
    own: MlflowTracking, job_id: str, folder: JobFolder, tmp_path: Path
) -> None:
    attempt = folder.attempt(1)
    sizes = {"train": 80, "val": 10, "test": 10}
    record = {"name": "coco", "source": "100 images", "location": "coco", "checksum": "c" * 64, "test_checksum": "t"}
    attempt.write_data(DatasetRecord.model_validate(record | sizes))
    for trial, error in enumerate((0.2, 0.1)):
        state, params = TrialState.SUCCEEDED, {"model.coder.bottleneck": 4 * (trial + 1)}
        attempt.add_trial(TrialRow(trial=trial, state=state, params=params, metrics={"val/mse": error}))
    run = own.create_run(job_id, "x", "tune", {"data.train_scenes": 64, "search.trials": 2})
    own.ship(folder.path, run.run_id)
    attempt.write_result(Result(outcome=Outcome.SUCCEEDED, metrics={"best_trial": 1.0}))
    for _ in range(2):
        own.ship(folder.path, run.run_id)
    found = own._client.get_run(run.run_id)
    (used,) = found.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("coco", "c" * 16)
    assert found.data.params == {"data.train_scenes": "64", "search.trials": "2", "model.coder.bottleneck": "8"}
    table = json.loads(Path(own._client.download_artifacts(run.run_id, "trials.json", str(tmp_path))).read_text())
    assert [row[table["columns"].index("val/mse")] for row in table["data"]] == [0.2, 0.1]
    for trial, child in enumerate(sorted(trial_runs(own, run.run_id), key=lambda child: str(child.info.run_name))):
        assert child.info.run_name == f"trial {trial}: bottleneck={4 * (trial + 1)}"
        assert child.data.params == {"data.train_scenes": "64", "model.coder.bottleneck": str(4 * (trial + 1))}


# --- an outage


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
