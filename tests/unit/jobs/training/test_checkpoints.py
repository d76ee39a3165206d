"""Checkpoints of a trainer that writes a file in place of a model."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, NoteKind
from jobs.errors import DiskFullError, FencedError
from jobs.specs import SelectionMetric
from jobs.training.checkpoints import CheckpointManager
from seqae.checkpoints import manifest
from seqae.errors import NewerCheckpointError


class _Trainer:
    """Writes small checkpoints that are whole, unless its disk is full."""

    def __init__(self) -> None:
        self.iteration = 0
        self.full_for = 0
        """So many saves fail for want of space."""
        self.after_commit: Callable[[], None] = lambda: None

    def save(self, path: Path, before_commit: Callable[[], None] | None = None) -> None:
        if self.full_for:
            self.full_for -= 1
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        if before_commit is not None:
            before_commit()
        write_checkpoint(path)
        self.after_commit()


def write_checkpoint(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text(f"weights of {path}")
    manifest.write(path, iteration=int(path.name), metrics={})
    return path


def damage(path: Path) -> None:
    (path / "model.safetensors").write_text("torn")


@pytest.fixture
def trainer() -> _Trainer:
    return _Trainer()


@pytest.fixture
def checkpoints(folder: JobFolder) -> CheckpointManager:
    """Those of attempt 1."""
    return CheckpointManager(folder, folder.attempt(1))


def evaluate(folder: JobFolder, errors: dict[int, float], attempt: int = 1) -> None:
    """Records the error and the objective of each step on `val`, and a foreground score that goes up with them."""
    for step, error in errors.items():
        scores = {"val/mse": error, "val/objective": error, "val/fg_ari": error}
        # What the test images would say plays no part.
        folder.attempt(attempt).add_metrics(step, scores | {"test/mse": -error, "test/objective": -error})


def steps(folder: JobFolder, attempt: int = 1) -> list[int]:
    return folder.attempt(attempt).checkpoint_steps()


# --- selection


def test_without_checkpoints_there_is_nothing_to_select(folder: JobFolder, checkpoints: CheckpointManager) -> None:
    evaluate(folder, {4: 0.1})
    assert checkpoints.newest() is None
    assert checkpoints.best() is None


def test_the_newest_is_of_the_highest_step_and_the_latest_attempt(folder: JobFolder) -> None:
    for attempt, step in ((1, 4), (1, 12), (2, 4), (2, 12), (3, 8)):
        write_checkpoint(folder.attempt(attempt).checkpoints / str(step))
    assert CheckpointManager(folder, folder.attempt(3)).newest() == folder.attempt(2).checkpoints / "12"


@pytest.mark.parametrize(
    ("metric", "best"), [(SelectionMetric.OBJECTIVE, "4"), (SelectionMetric.MSE, "4"), (SelectionMetric.FG_ARI, "8")]
)
def test_the_best_is_the_best_by_the_metric_and_not_the_newest(
    folder: JobFolder, metric: SelectionMetric, best: str
) -> None:
    for step in (4, 8, 12):
        write_checkpoint(folder.attempt(1).checkpoints / str(step))
    evaluate(folder, {4: 0.1, 8: 0.9, 12: 0.5})
    assert CheckpointManager(folder, folder.attempt(1), metric).best() == folder.attempt(1).checkpoints / best


def test_a_newer_releases_checkpoint_is_not_skipped_for_an_older_one(folder: JobFolder) -> None:
    """After a downgrade the job fails and says why; it would else begin anew, and prune what was trained."""
    for step in (4, 8):
        write_checkpoint(folder.attempt(1).checkpoints / str(step))
    newest = folder.attempt(1).checkpoints / "8" / "manifest.json"
    newest.write_text(json.dumps(json.loads(newest.read_text()) | {"format_version": manifest.FORMAT_VERSION + 1}))
    manager = CheckpointManager(folder, folder.attempt(2))
    with pytest.raises(NewerCheckpointError, match="checkpoints/8: format version"):
        manager.newest()
    assert folder.attempt(2).notes() == []
    assert steps(folder) == [4, 8]


@pytest.mark.parametrize("metric", SelectionMetric)
def test_of_equal_ones_the_newest_is_the_best(folder: JobFolder, metric: SelectionMetric) -> None:
    for step in (4, 8, 12):
        write_checkpoint(folder.attempt(1).checkpoints / str(step))
    evaluate(folder, {4: 0.3, 8: 0.3, 12: 0.3})
    assert CheckpointManager(folder, folder.attempt(1), metric).best() == folder.attempt(1).checkpoints / "12"


def test_the_best_is_chosen_by_the_objective_unless_said_otherwise(folder: JobFolder) -> None:
    """F1: the lowest error alone may be that of a model which writes two objects at once."""
    for step in (4, 8):
        write_checkpoint(folder.attempt(1).checkpoints / str(step))
    folder.attempt(1).add_metrics(4, {"val/mse": 0.001, "val/objective": 0.5})
    folder.attempt(1).add_metrics(8, {"val/mse": 0.002, "val/objective": 0.1})
    assert CheckpointManager(folder, folder.attempt(1)).best() == folder.attempt(1).checkpoints / "8"


def test_one_that_was_not_evaluated_is_never_the_best(folder: JobFolder, checkpoints: CheckpointManager) -> None:
    for step in (4, 5):
        write_checkpoint(folder.attempt(1).checkpoints / str(step))
    assert checkpoints.best() is None
    evaluate(folder, {4: 0.3})
    assert checkpoints.best() == folder.attempt(1).checkpoints / "4"


def test_damaged_ones_are_skipped_and_each_is_noted_once(folder: JobFolder, checkpoints: CheckpointManager) -> None:
    paths = {step: write_checkpoint(folder.attempt(1).checkpoints / str(step)) for step in (4, 8, 12)}
    evaluate(folder, {4: 0.2, 8: 0.9, 12: 0.1})
    damage(paths[12])
    assert checkpoints.best() == paths[4]
    assert checkpoints.newest() == paths[8]
    (note,) = folder.attempt(1).notes()
    assert note.kind is NoteKind.CHECKPOINT_DAMAGED
    assert str(paths[12]) in note.text


# --- saving and pruning


@pytest.mark.parametrize(
    ("metric", "best"), [(SelectionMetric.OBJECTIVE, 1), (SelectionMetric.MSE, 1), (SelectionMetric.FG_ARI, 2)]
)
def test_the_two_newest_and_the_best_are_kept(
    folder: JobFolder, trainer: _Trainer, metric: SelectionMetric, best: int
) -> None:
    evaluate(folder, {1: 0.1, 2: 0.9, 3: 0.4, 4: 0.5, 5: 0.6})
    checkpoints = CheckpointManager(folder, folder.attempt(1), metric)
    for trainer.iteration in range(1, 6):
        checkpoints.save(trainer)
    assert steps(folder) == [best, 4, 5]


def test_without_evaluations_the_two_newest_are_kept(
    folder: JobFolder, trainer: _Trainer, checkpoints: CheckpointManager
) -> None:
    for trainer.iteration in range(1, 5):
        checkpoints.save(trainer)
    assert steps(folder) == [3, 4]


def test_those_of_earlier_attempts_are_pruned_too(folder: JobFolder, trainer: _Trainer) -> None:
    for step in (1, 2, 3):
        write_checkpoint(folder.attempt(1).checkpoints / str(step))
    evaluate(folder, {1: 0.1, 2: 0.2, 3: 0.3})
    folder.write_control(Control(attempt=2))
    trainer.iteration = 4
    CheckpointManager(folder, folder.attempt(2)).save(trainer)
    assert (steps(folder, 1), steps(folder, 2)) == ([1, 3], [4])


def test_a_fence_that_falls_while_a_checkpoint_is_written_cancels_it(
    folder: JobFolder, trainer: _Trainer, checkpoints: CheckpointManager
) -> None:
    folder.write_control(Control(attempt=2))
    with pytest.raises(FencedError, match="attempt 2 has taken over from attempt 1"):
        checkpoints.save(trainer)
    assert folder.checkpoint_paths() == []
    assert not folder.attempt(1).checkpoints.exists()


def test_a_fence_that_falls_before_the_pruning_keeps_all(
    folder: JobFolder, trainer: _Trainer, checkpoints: CheckpointManager
) -> None:
    for step in (1, 2, 3):
        write_checkpoint(folder.attempt(1).checkpoints / str(step))
    trainer.iteration = 4
    trainer.after_commit = lambda: folder.write_control(Control(attempt=2))
    with pytest.raises(FencedError):
        checkpoints.save(trainer)
    assert steps(folder) == [1, 2, 3, 4], "the newer attempt may be reading them"


@pytest.mark.parametrize("newest", [0, 1])
def test_the_newest_attempt_is_not_fenced(folder: JobFolder, checkpoints: CheckpointManager, newest: int) -> None:
    folder.write_control(Control(attempt=newest))
    checkpoints.check_fence()


# --- a full disk


def test_on_a_full_disk_older_checkpoints_make_room(
    folder: JobFolder, trainer: _Trainer, checkpoints: CheckpointManager
) -> None:
    for trainer.iteration in (1, 2):
        checkpoints.save(trainer)
    assert steps(folder) == [1, 2]
    trainer.iteration, trainer.full_for = 3, 1
    checkpoints.save(trainer)
    assert steps(folder) == [2, 3]
    assert folder.attempt(1).notes() == []


def test_a_disk_that_stays_full_keeps_the_newest_and_is_noted(
    folder: JobFolder, trainer: _Trainer, checkpoints: CheckpointManager
) -> None:
    for trainer.iteration in (1, 2):
        checkpoints.save(trainer)
    trainer.iteration, trainer.full_for = 3, 2
    with pytest.raises(DiskFullError, match="no space left"):
        checkpoints.save(trainer)
    # The one before is still there to resume from, and the event says so.
    assert steps(folder) == [2]
    (note,) = folder.attempt(1).notes()
    assert note.kind is NoteKind.CHECKPOINT_FAILED
    assert note.text.startswith("iteration 3: ")


def test_an_error_that_is_not_about_the_disk_is_raised_as_it_is(
    folder: JobFolder, trainer: _Trainer, checkpoints: CheckpointManager
) -> None:
    def fail() -> None:
        raise PermissionError("no right to write")

    for trainer.iteration in (1, 2):
        checkpoints.save(trainer)
    trainer.iteration, trainer.after_commit = 3, fail
    with pytest.raises(PermissionError):
        checkpoints.save(trainer)
    assert steps(folder) == [1, 2, 3], "nothing was pruned to make room"


def test_what_killed_processes_left_half_written_is_removed(folder: JobFolder, checkpoints: CheckpointManager) -> None:
    whole = write_checkpoint(folder.attempt(1).checkpoints / "8")
    drafts = [folder.attempt(number).checkpoints / f".{number}.4711.tmp" for number in (1, 2)]
    for draft in drafts:
        draft.mkdir(parents=True)
        (draft / "model.safetensors").write_bytes(b"half")
    checkpoints.remove_unfinished()
    assert not any(draft.exists() for draft in drafts)
    assert checkpoints.newest() == whole
