"""Manager of a job's checkpoints: saving, selection of the newest and the best, pruning, and the fence."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.directory.records import NoteKind
from jobs.error_classes import is_disk_full
from jobs.errors import DiskFullError, FencedError
from jobs.specs import SelectionMetric
from seqae.checkpoints.manifest import verify
from seqae.errors import CheckpointError, NewerCheckpointError

__all__ = ["CheckpointManager", "Checkpointable"]

_KEEP_NEWEST = 2
"""The newest may be damaged."""


class Checkpointable(Protocol):
    """What can be saved as a checkpoint: a trainer."""

    @property
    def iteration(self) -> int:
        """How many iterations are done: the checkpoint's name."""

    def save(self, path: Path, before_commit: Callable[[], None] | None = None) -> object:
        """Writes a checkpoint folder, which appears at once and whole, after `before_commit` has returned."""


class CheckpointManager:
    """Saves, selects and prunes the checkpoints of one attempt and of those before it. Used by rank 0 alone.

    Args:
        folder: of the job or trial.
        attempt: the one that runs.
        metric: by which the best is chosen.
    """

    def __init__(
        self, folder: JobFolder, attempt: AttemptFolder, metric: SelectionMetric = SelectionMetric.OBJECTIVE
    ) -> None:
        self._folder = folder
        self._attempt = attempt
        self._metric = metric
        self._damaged: set[Path] = set()

    def check_fence(self) -> None:
        """Makes sure that this attempt is the newest.

        Raises:
            FencedError: a newer attempt exists.
        """
        control = self._folder.read_control()
        if control.fences(self._attempt.number):
            raise FencedError(f"attempt {control.attempt} has taken over from attempt {self._attempt.number}")

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole, to resume from. Damaged ones are skipped, and each is noted.

        Raises:
            NewerCheckpointError: a newer release wrote it, and this one can't go on from there.
        """
        return next((path for path in self._folder.checkpoint_paths() if self._is_whole(path)), None)

    def best(self) -> Path | None:
        """The best checkpoint that is whole, to register, of those that were evaluated; of equal ones the newest."""
        return next((path for path in self._best_first() if self._is_whole(path)), None)

    def save(self, trainer: Checkpointable) -> None:
        """Writes a checkpoint and removes those that are neither the newest nor the best.

        Args:
            trainer: whose state is written, as the checkpoint of its iteration.

        Raises:
            FencedError: a newer attempt exists; nothing was committed.
            DiskFullError: even after the older ones were removed; the newest checkpoint is as it was.
        """
        path = self._attempt.checkpoints / str(trainer.iteration)
        try:
            self._write(trainer, path)
        except DiskFullError:
            self._prune(keep_newest=1)
            try:
                self._write(trainer, path)
            except DiskFullError as error:
                self._attempt.add_note(NoteKind.CHECKPOINT_FAILED, f"iteration {trainer.iteration}: {error}")
                raise
        self._prune(_KEEP_NEWEST)

    def go_back(self, step: int) -> Path | None:
        """Removes the checkpoints after a step, from which a run has diverged, and returns the newest that is left."""
        self.check_fence()
        for path in self._folder.checkpoint_paths():
            if int(path.name) > step:
                shutil.rmtree(path, ignore_errors=True)
        return self.newest()

    def remove_unfinished(self) -> None:
        """Removes checkpoints that killed processes left half written."""
        for attempt in self._folder.attempts():
            for draft in attempt.checkpoints.glob(".*.tmp"):
                shutil.rmtree(draft, ignore_errors=True)

    def _write(self, trainer: Checkpointable, path: Path) -> None:
        try:
            trainer.save(path, before_commit=self.check_fence)
        except Exception as error:
            if is_disk_full(error):
                raise DiskFullError(f"{path}: no space left for a checkpoint") from error
            raise

    def _best_first(self) -> list[Path]:
        """The checkpoints that were evaluated, the best first; of equal ones the newest first."""
        name = self._metric.row_name
        scores = {row.step: row.metrics[name] for row in self._folder.history() if name in row.metrics}
        paths = [path for path in self._folder.checkpoint_paths() if int(path.name) in scores]
        # The paths come newest first, and sorting keeps the order of equal ones, in reverse too.
        return sorted(paths, key=lambda path: scores[int(path.name)], reverse=self._metric.higher_is_better)

    def _prune(self, keep_newest: int) -> None:
        """Removes all checkpoints but the newest and the best."""
        paths = self._folder.checkpoint_paths()
        keep = {*paths[:keep_newest], *self._best_first()[:1]}
        self.check_fence()
        for path in paths:
            if path not in keep:
                shutil.rmtree(path, ignore_errors=True)

    def _is_whole(self, path: Path) -> bool:
        try:
            verify(path)
        except NewerCheckpointError:
            raise  # it is whole: to begin anew would throw away what that release has trained
        except CheckpointError as error:
            if path not in self._damaged:
                self._damaged.add(path)
                self._attempt.add_note(NoteKind.CHECKPOINT_DAMAGED, f"{error}; the one before is used")
            return False
        return True
