"""A figure's driver in this process, and where it finds a model and its record."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.backends.fakes import FakeTracking
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Outcome, Phase, Result, TrialRow, TrialState
from jobs.errors import ErrorClass, NoModel
from jobs.figure import find_material, main, material_of
from jobs.specs import FigureSpec, TrainSpec, job_spec
from jobs.training.worker import DistributedContext, TrainingTask, train
from seqae.figures.make import Material


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> JobFolder:
    """A training run that has ended: 12 iterations, evaluated at 4, 8 and 12."""
    folder = JobFolder(tmp_path_factory.mktemp("home") / "jobs" / "job_trained")
    spec = {
        "name": "tiny",
        "data": {"train_scenes": 32, "test_scenes": 8, "min_digits": 1, "max_digits": 1},
        "model": {"height": 32, "width": 32, "steps": 2, "attention": {"kernel_size": 8}, "coder": {"bottleneck": 4}},
        "schedule": {"batch_size": 8, "epochs": 3, "log_every": 1, "evaluate_every": 4, "checkpoint_every": 4},
    }
    folder.write_spec(TrainSpec.model_validate(spec))
    result = train(TrainingTask(folder.path, folder.path, 1, cache_dir, None), DistributedContext())
    folder.attempt(1).write_result(result)
    return folder


@pytest.fixture
def base(cache_dir: Path) -> Material:
    return Material(cache_dir)


@pytest.fixture
def draw(trained: JobFolder, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Runs a figure job beside the training run to its end, in this process."""
    for name in ("MLFLOW_TRACKING_URI", "SEQAE_RUN_ID", "SEQAE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEQAE_CACHE_DIR", str(cache_dir))
    before = signal.getsignal(signal.SIGTERM)

    def draw(job_id: str, **fields: Any) -> Result:
        folder = JobFolder(trained.path.parent / job_id)
        folder.write_spec(job_spec.validate_python({"kind": "figure", "name": "f"} | fields))
        folder.write_control(Control(attempt=1))
        assert main(["--job-dir", str(folder.path), "--attempt", "1"]) == 0
        result = folder.attempt(1).read_result()
        assert result is not None
        return result

    yield draw
    signal.signal(signal.SIGTERM, before)


def test_a_figure_of_a_job_is_left_in_its_folder(draw: Callable[..., Result], trained: JobFolder) -> None:
    result = draw("job_seven", figure=7, model="job_trained")
    assert result.outcome is Outcome.SUCCEEDED
    assert result.checkpoint is None, "there is nothing to register"
    assert set(result.metrics) == {"mse_0", "mse_1", "mse_2", "energy_1", "energy_2"}
    attempt = JobFolder(trained.path.parent / "job_seven").attempt(1)
    about = json.loads((attempt.artifacts / "figure-7.json").read_bytes())
    assert about["numbers"] == result.metrics
    assert about["caption"]
    with Image.open(attempt.artifacts / "figure-7.png") as kept, Image.open(attempt.frames / "0.png") as shown:
        np.testing.assert_array_equal(np.asarray(kept), np.asarray(shown))
    (row,) = attempt.metrics()
    assert row.metrics == {f"figure/{name}": value for name, value in result.metrics.items()}
    progress = attempt.read_progress()
    assert progress is not None
    assert (progress.phase, progress.iteration, progress.iterations) == (Phase.FINALIZING, 1, 1)


def test_a_record_is_plotted(draw: Callable[..., Result], trained: JobFolder) -> None:
    rows = {row.step: row.metrics["test/mse"] for row in trained.history() if "test/mse" in row.metrics}
    numbers = draw("job_five", figure=5, model="job_trained").metrics
    assert (numbers["first"], numbers["last"]) == (rows[4], rows[12])
    rows = {row.step: row.metrics["train/mse"] for row in trained.history() if "train/mse" in row.metrics}
    assert draw("job_nine", figure=9, model="job_trained").metrics["best"] == min(rows.values())


def test_readers_need_no_model(draw: Callable[..., Result]) -> None:
    assert draw("job_four", figure=4).outcome is Outcome.SUCCEEDED


def test_other_images_can_be_looked_at(draw: Callable[..., Result]) -> None:
    first = draw("job_a", figure=7, model="job_trained").metrics
    data = {"min_digits": 1, "max_digits": 1, "seed": 5}
    assert draw("job_b", figure=7, model="job_trained", data=data).metrics["mse_0"] != first["mse_0"]


def test_what_a_model_can_not_show_fails_the_job_as_its_datas_fault(draw: Callable[..., Result]) -> None:
    result = draw("job_ten", figure=10, model="job_trained")
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.error_class is ErrorClass.DATA
    assert "background" in result.error.message


def test_an_unknown_model_fails_the_job(draw: Callable[..., Result]) -> None:
    result = draw("job_none", figure=7, model="job_nobody")
    assert result.error is not None
    assert "job_nobody" in result.error.message


# --- finding


def test_a_jobs_best_model_and_its_record_are_found(trained: JobFolder, base: Material) -> None:
    result = trained.attempt(1).read_result()
    assert result is not None and result.checkpoint is not None
    for name in ("job_trained", str(trained.path)):
        found = find_material(name, trained.path.parent, None, base)
        assert found.checkpoint == trained.path / result.checkpoint
        assert found.curves["test/mse"].iterations.tolist() == [4, 8, 12]
        assert found.config is not None
        assert found.config.model.steps == 2


def test_a_run_that_goes_on_gives_its_newest_checkpoint(trained: JobFolder, base: Material, tmp_path: Path) -> None:
    running = JobFolder(tmp_path / "job_running")
    running.write_spec(trained.read_spec())
    assert material_of(running, base).checkpoint is None
    for step in (4, 8):
        (running.attempt(1).checkpoints / str(step)).mkdir(parents=True)
    assert material_of(running, base).checkpoint == running.attempt(1).checkpoints / "8"


def test_a_search_gives_its_winner(tune_spec: Any, base: Material, tmp_path: Path) -> None:
    search = JobFolder(tmp_path / "job_search")
    search.write_spec(tune_spec)
    for index in (0, 1):
        trial = search.trial(index)
        trial.write_spec(tune_spec.base)
        trial.attempt(1).add_metrics(4, {"test/mse": 0.1 * (index + 1)})
        search.attempt(1).add_trial(TrialRow(trial=index, state=TrialState.SUCCEEDED, params={}))
    chosen = "trials/1/attempts/1/checkpoints/4"
    search.attempt(1).write_result(Result(outcome=Outcome.SUCCEEDED, checkpoint=chosen))
    found = material_of(search, base)
    assert found.checkpoint == search.path / chosen
    assert found.curves["test/mse"].values.tolist() == [0.2]


def test_a_registered_model_is_found_with_the_record_of_its_job(trained: JobFolder, base: Material) -> None:
    tracking = FakeTracking()
    run = tracking.create_run("job_trained", "tiny", "train", {})
    tracking.register("job_trained", run.run_id, Path("/models/1"), {"test_mse": 0.1}, "set")
    elsewhere = tracking.create_run("job_elsewhere", "tiny", "train", {})
    tracking.register("job_elsewhere", elsewhere.run_id, Path("/models/2"), {"test_mse": 0.2}, "set")
    for selector, path, curves in (("champion", "/models/1", 3), ("2", "/models/2", 0)):
        found = find_material(selector, trained.path.parent, tracking, base)
        assert found.checkpoint == Path(path)
        assert len(found.curves) == curves


def test_a_folder_is_taken_for_a_checkpoint(base: Material, tmp_path: Path) -> None:
    assert find_material(str(tmp_path), tmp_path, None, base).checkpoint == tmp_path


@pytest.mark.parametrize("model", ["/nowhere/at/all", "champion", "../job_trained", "job_trained/attempts"])
def test_what_is_nowhere_is_an_error(model: str, trained: JobFolder, base: Material) -> None:
    with pytest.raises(NoModel, match=model):
        find_material(model, trained.path.parent, None, base)


# --- the spec


def test_a_spec_is_read_back(tmp_path: Path) -> None:
    spec = job_spec.validate_python({"kind": "figure", "name": "f", "figure": "sample", "data": {"max_digits": 2}})
    assert isinstance(spec, FigureSpec)
    assert (spec.model, spec.scaling.min_workers) == ("champion", 1)
    folder = JobFolder(tmp_path)
    folder.write_spec(spec)
    assert folder.read_spec() == spec


@pytest.mark.parametrize("figure", [3, 11, "6", "noise", None])
def test_other_figures_are_refused(figure: object) -> None:
    with pytest.raises(ValueError, match="figure"):
        job_spec.validate_python({"kind": "figure", "name": "f", "figure": figure})
