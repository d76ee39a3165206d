"""Pause of a search by eye until people have compared enough of its trials."""

import time
from typing import Protocol

from jobs.directory.records import Phase
from jobs.driver import DriverContext

__all__ = ["Compared", "wait_for_answers"]

_LOOK_INTERVAL = 1.0
"""Seconds between two looks for answers."""

_WAITING_BEAT = 30.0
"""Seconds after which a search that waits for answers says so again."""


class Compared(Protocol):
    """Trials of a search, as far as people compare them; see `jobs.tuning.trial_table`."""

    def missing_answers(self) -> int:
        """Answers that are needed before the search goes on."""

    def take_answers(self) -> None:
        """Scores the trials by the answers so far."""

    def is_idle(self) -> bool:
        """Whether no trial runs."""

    def write_progress(self, phase: Phase, *, missing: int | None = None) -> None:
        """Writes the heartbeat of the search."""


def wait_for_answers(context: DriverContext, trial_table: Compared) -> bool:
    """Waits until people have compared as many pairs as a search by eye needs to go on, or until it is to stop.

    No trial runs meanwhile, so nothing of the cluster is held but the driver's own process.

    Args:
        context: of the driver.
        trial_table: its trials; none runs.

    Returns:
        Whether it had to wait.
    """
    written_at, last = 0.0, 0
    while not context.folder.read_control().stops(context.attempt.number) and trial_table.is_idle():
        missing = trial_table.missing_answers()
        if missing == 0:
            return last > 0
        # Waiting for people is no stall: it is said again and again that the search goes on as it should.
        if missing != last or time.monotonic() - written_at > _WAITING_BEAT:
            trial_table.take_answers()
            trial_table.write_progress(Phase.TRAINING, missing=missing)
            written_at, last = time.monotonic(), missing
        time.sleep(_LOOK_INTERVAL)
    return last > 0
