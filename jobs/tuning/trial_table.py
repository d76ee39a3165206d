"""Table of a search's trials and their states, kept by the driver: trials.jsonl and the search's progress."""

import time

from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.directory.records import Phase, Progress, TrialRow, TrialState
from jobs.specs import SelectionMetric, TuneSpec
from jobs.tuning.trials import row_of, winner

__all__ = ["TrialTable"]


class TrialTable:
    """The newest row of each trial, in `rows`; whatever changes is appended to trials.jsonl.

    Args:
        spec: the search.
        folder: the search's.
        attempt: the one that runs.
    """

    def __init__(self, spec: TuneSpec, folder: JobFolder, attempt: AttemptFolder) -> None:
        self._spec = spec
        self._folder = folder
        self._attempt = attempt
        self._started_at = time.time()
        self._running: set[int] = set()
        self.rows = {trial: self._row(trial) for trial in range(spec.trials)}
        known = folder.trials()
        for trial, row in self.rows.items():
            if row.state is TrialState.STOPPED and not (trial in known and known[trial].is_over):
                # The attempt before ended while it ran.
                row.state = TrialState.PENDING
        self._share_at_start = self._share_done()

    def mark_running(self, trial: int) -> None:
        """Notes that a trial starts, or has reported an evaluation."""
        self._running.add(trial)
        if not self.rows[trial].is_over:
            row = self._row(trial)
            row.state = TrialState.RUNNING
            self._put(row)

    def mark_ended(self, trial: int, error: str | None = None) -> None:
        """Notes that a trial's process has ended, or with an error that it was given up."""
        self._running.discard(trial)
        if not self.rows[trial].is_over:
            row = self._row(trial)
            if error is not None:
                row.state, row.message = TrialState.FAILED, error
            self._put(row)

    def is_idle(self) -> bool:
        """Whether no trial runs."""
        return not self._running

    def winner(self) -> TrialRow | None:
        """The best trial so far; see `jobs.tuning.trials.winner`."""
        return winner(self._spec, self.rows)

    def write_progress(self, phase: Phase) -> None:
        """Writes the heartbeat; trials count as iterations, and the epochs are those of all trials together."""
        states = [row.state for row in self.rows.values()]
        best = self.winner()
        share = self._share_done()
        gained = share - self._share_at_start
        now = time.time()
        progress = Progress(
            time=now,
            last_progress_at=now,
            phase=phase,
            iteration=sum(row.is_over for row in self.rows.values()),
            iterations=len(self.rows),
            epoch=sum(row.epoch for row in self.rows.values()),
            epochs=self._spec.base.schedule.epochs * len(self.rows),
            val_mse=best.metrics.get(SelectionMetric.MSE.row_name) if best else None,
            eta_seconds=(now - self._started_at) * (1 - share) / gained if gained > 0 else None,
            trials={state: states.count(state) for state in sorted(set(states))},
        )
        self._attempt.write_progress(progress)

    def _row(self, trial: int) -> TrialRow:
        return row_of(self._spec, self._folder, trial, self._attempt.number)

    def _put(self, row: TrialRow) -> None:
        self.rows[row.trial] = row
        self._attempt.add_trial(row)
        self.write_progress(Phase.TRAINING)

    def _share_done(self) -> float:
        """How much of the search is done, 0 to 1."""
        epochs = self._spec.base.schedule.epochs
        return sum(1.0 if row.is_over else row.epoch / epochs for row in self.rows.values()) / len(self.rows)
