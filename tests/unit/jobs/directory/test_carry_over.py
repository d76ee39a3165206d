"""A job that repeats an ended one goes on with what that one got done."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.directory.carry_over import inherit_run, inherit_search
from jobs.directory.layout import JobFolder
from jobs.directory.records import Failure, Outcome, Result, TrialState
from jobs.errors import ErrorClass
from jobs.search.space import Params
from jobs.specs import TuneSpec
from jobs.training.checkpoints import CheckpointManager
from jobs.training.worker import DistributedContext, TrainingTask, train
from jobs.tuning.trials import trial_spec
from seqae.checkpoints import manifest
from tests.unit.jobs.tuning.fake_driver import table_of

FAILED = Result(outcome=Outcome.FAILED, error=Failure(error_class=ErrorClass.DIVERGED, message="nan"))


@pytest.fixture
def mine(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path / "jobs" / "job_2")


def _checkpoint(folder: JobFolder, step: int, attempt: int = 1) -> None:
    path = folder.attempt(attempt).checkpoints / str(step)
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text(f"step {step} of attempt {attempt}")
    manifest.write(path, iteration=step, metrics={})


def _evaluate(folder: JobFolder, step: int, error: float, attempt: int = 1) -> None:
    scores = {"val/mse": error, "val/objective": error, "val/fg_ari": 0.5, "val/epoch": step / 4}
    folder.attempt(attempt).add_metrics(step, scores)


def _half_done_search(search: JobFolder, spec: TuneSpec) -> None:
    """Of four trials 0 was stopped, 1 has succeeded without the driver knowing, 2 has failed, 3 was cut short."""
    trial_table = table_of(spec, search)
    for trial in range(4):
        assert trial_table.propose() == trial
        folder = search.trial(trial)
        folder.write_spec(trial_spec(spec, trial_table.rows[trial].params))
        trial_table.mark_running(trial)
        for step, error in ((4, 0.3 - trial / 100), (8, 0.4 if trial else 0.9)):
            _evaluate(folder, step, error)
            _checkpoint(folder, step)
    trial_table._study.tell(0, TrialState.STOPPED, {"val/objective": 0.9}, "stopped by asha")
    trial_table.mark_ended(0)
    search.trial(1).attempt(1).write_result(Result(outcome=Outcome.SUCCEEDED, checkpoint="attempts/1/checkpoints/4"))
    search.trial(2).attempt(1).write_result(FAILED)
    trial_table.mark_ended(2)
    # What came after the checkpoint is repeated.
    _evaluate(search.trial(3), 10, 0.1)


def test_a_search_keeps_the_trials_that_are_done(folder: JobFolder, mine: JobFolder, tune_spec: TuneSpec) -> None:
    spec = tune_spec.model_copy(update={"trials": 5})
    _half_done_search(folder, spec)
    inherit_search(folder, mine)
    inherit_search(folder, mine)
    trial_table = table_of(spec, mine)
    assert [row.state for row in trial_table.rows.values()] == ["stopped", "succeeded", "pending", "pending"]
    assert [row.epoch for row in trial_table.rows.values()] == [2.0, 2.0, 2.0, 2.0]
    assert [row.params for row in trial_table.rows.values()] == [row.params for row in folder.trials().values()]
    assert trial_table.open() == [2, 3]
    assert trial_table.propose() == 4
    for trial in range(4):
        checkpoints = CheckpointManager(mine.trial(trial), mine.trial(trial).attempt(1))
        best, newest = checkpoints.best(), checkpoints.newest()
        assert best is not None
        assert newest is not None
        assert (best.name, newest.name) == ("4", "8")
    assert not mine.trial(4).path.exists()
    assert mine.trial(1).attempt(0).read_result() == Result(outcome=Outcome.SUCCEEDED)


def test_a_search_that_was_interrupted_while_it_took_over_begins_again(
    folder: JobFolder, mine: JobFolder, tune_spec: TuneSpec
) -> None:
    spec = tune_spec.model_copy(update={"trials": 4})
    _half_done_search(folder, spec)
    inherit_run(folder.trial(3), mine.trial(3))
    (mine.trial(0).path / "attempts" / ".0.tmp" / "checkpoints" / "8").mkdir(parents=True)
    inherit_search(folder, mine)
    states = [row.state for row in table_of(spec, mine).rows.values()]
    assert states == ["stopped", "succeeded", "pending", "pending"]


def test_of_two_checkpoints_of_a_step_the_later_attempts_is_taken(folder: JobFolder, mine: JobFolder) -> None:
    _checkpoint(folder, 4, attempt=1)
    _checkpoint(folder, 8, attempt=1)
    _checkpoint(folder, 8, attempt=2)
    inherit_run(folder, mine)
    assert [path.name for path in mine.checkpoint_paths()] == ["8", "4"]
    assert (mine.checkpoint_paths()[0] / "model.safetensors").read_text() == "step 8 of attempt 2"


def test_nothing_is_taken_from_a_job_that_left_nothing(folder: JobFolder, mine: JobFolder) -> None:
    inherit_run(folder, mine)
    inherit_search(folder, mine)
    assert mine.attempts() == [] or mine.trials() == {}


def test_an_unfinished_trial_goes_on_from_its_checkpoint(
    folder: JobFolder, mine: JobFolder, tune_spec: TuneSpec, make_task: Callable[[int], TrainingTask]
) -> None:
    before = folder.trial(0)
    params: Params = {"loss.alpha_mseot": 2.5, "model.coder.bottleneck": 8}
    before.write_spec(trial_spec(tune_spec, params))
    task = make_task(1)
    train(TrainingTask(before.path, folder.path, 1, task.cache_dir, None), DistributedContext())
    for left in before.checkpoint_paths():
        if left.name == "12":
            (left / "model.safetensors").write_bytes(b"damaged")
    (before.attempt(1).path / "result.json").unlink(missing_ok=True)
    inherit_search(folder, mine)
    own = mine.trial(0)
    assert own.read_spec() == before.read_spec()
    assert train(TrainingTask(own.path, mine.path, 1, task.cache_dir, None), DistributedContext()).iterations == 12
    notes = [note.text for note in own.attempt(1).notes() if note.kind == "resumed"]
    assert notes == ["from iteration 8 of 12"]
