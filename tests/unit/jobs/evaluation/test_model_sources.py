"""Where a figure and an evaluation find a model and the record of its training."""

import shutil
from pathlib import Path

import pytest

from jobs.backends.fakes import FakeTracking
from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome, Result, TrialRow, TrialState
from jobs.errors import NoModel
from jobs.evaluation.model_sources import find_model, material_of
from jobs.specs import TuneSpec
from seqae.figures.make import Material


def test_a_jobs_best_model_and_its_record_are_found(trained: JobFolder, base: Material) -> None:
    result = trained.attempt(1).read_result()
    assert result is not None
    assert result.checkpoint is not None
    for name in ("job_trained", str(trained.path)):
        found = find_model(name, trained.path.parent, None, base).material
        assert found.checkpoint == trained.path / result.checkpoint
        assert found.curves["val/mse"].iterations.tolist() == [4, 8, 12]
        assert found.config is not None
        assert found.config.model.steps == 2


def test_a_run_that_goes_on_gives_its_newest_checkpoint(trained: JobFolder, base: Material, tmp_path: Path) -> None:
    running = JobFolder(tmp_path / "job_running")
    running.write_spec(trained.read_spec())
    assert material_of(running, base).checkpoint is None
    for step in (4, 8):
        (running.attempt(1).checkpoints / str(step)).mkdir(parents=True)
    assert material_of(running, base).checkpoint == running.attempt(1).checkpoints / "8"


def test_a_search_gives_its_winner(tune_spec: TuneSpec, base: Material, tmp_path: Path) -> None:
    search = JobFolder(tmp_path / "job_search")
    search.write_spec(tune_spec)
    for index in (0, 1):
        trial = search.trial(index)
        trial.write_spec(tune_spec.base)
        trial.attempt(1).add_metrics(4, {"val/mse": 0.1 * (index + 1)})
        search.attempt(1).add_trial(TrialRow(trial=index, state=TrialState.SUCCEEDED, params={}))
    chosen = "trials/1/attempts/1/checkpoints/4"
    search.attempt(1).write_result(Result(outcome=Outcome.SUCCEEDED, checkpoint=chosen))
    found = material_of(search, base)
    assert found.checkpoint == search.path / chosen
    assert found.curves["val/mse"].values.tolist() == [0.2]


def test_a_registered_model_is_found_with_the_record_of_its_job(trained: JobFolder, base: Material) -> None:
    tracking = FakeTracking()
    run = tracking.create_run("job_trained", "tiny", "train", {})
    tracking.register("job_trained", run.run_id, "m", Path("/models/1"), {}, None)
    elsewhere = tracking.create_run("job_elsewhere", "tiny", "train", {})
    tracking.register("job_elsewhere", elsewhere.run_id, "m", Path("/models/2"), {}, None)
    for selector, path, curves in (("champion", "/models/1", 3), ("2", "/models/2", 0)):
        source = find_model(selector, trained.path.parent, tracking, base)
        assert source.label == f"m/{Path(path).name}"
        found = source.material
        assert found.checkpoint == Path(path)
        assert len(found.curves) == curves


def test_a_checkpoint_is_found_by_its_path_below_the_jobs(trained: JobFolder, base: Material) -> None:
    (path, *_) = trained.checkpoint_paths()
    relative = str(path.relative_to(trained.path.parent))
    for name in (str(path), relative):
        found = find_model(name, trained.path.parent, None, base)
        assert (found.label, found.material.checkpoint) == (name, path)


@pytest.mark.parametrize(
    "model",
    ["/nowhere/at/all", "/etc", "champion", "../job_trained", "job_trained/attempts", ".", "", "x" * 3000, "a\0b"],
)
def test_what_is_nowhere_is_an_error(model: str, trained: JobFolder, base: Material) -> None:
    with pytest.raises(NoModel):
        find_model(model, trained.path.parent, None, base)


def test_nothing_is_told_of_folders_elsewhere(trained: JobFolder, base: Material, tmp_path: Path) -> None:
    """D1: neither whether they exist nor what is in them, through a link neither; a checkpoint there is not used."""
    (path, *_) = trained.checkpoint_paths()
    outside = tmp_path / "outside"
    shutil.copytree(path, outside)
    jobs_dir = tmp_path / "jobs"
    jobs_dir.mkdir()
    (jobs_dir / "link").symlink_to(outside)
    errors = []
    for model in (str(outside), str(tmp_path / "missing"), str(jobs_dir / "link"), "../outside", "link"):
        with pytest.raises(NoModel) as error:
            find_model(model, jobs_dir, None, base)
        errors.append(str(error.value).replace(model, "X"))
    assert len(set(errors[:3])) == 1
    assert len(set(errors[3:])) == 1
