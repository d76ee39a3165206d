"""Table of a search's trials and their states, kept by the driver: trials.jsonl and the search's progress."""

import time

from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.directory.records import Phase, Progress, TrialRow, TrialState
from jobs.preferences.answers import read_answers
from jobs.preferences.scores import scored
from jobs.search.settings import HUMAN_SCORE
from jobs.specs import SelectionMetric, TuneSpec
from jobs.tuning.study import SearchStudy, Verdict
from jobs.tuning.trials import evaluations, failure_of, is_bad, row_of, seed_folder, winner

__all__ = ["TrialTable"]


class TrialTable:
    """The newest row of each trial that was proposed, in `rows`; whatever changes is appended to trials.jsonl.

    Whatever ends a trial is in the study's journal first, and then here.

    Args:
        spec: the search.
        folder: the search's.
        attempt: the one that runs.
        study: proposes the trials.
    """

    def __init__(self, spec: TuneSpec, folder: JobFolder, attempt: AttemptFolder, study: SearchStudy) -> None:
        self._spec = spec
        self._folder = folder
        self._attempt = attempt
        self._study = study
        self._started_at = time.time()
        self._running: set[int] = set()
        self._total = spec.most_trials
        known = folder.trials()
        self.rows: dict[int, TrialRow] = {}
        for trial in range(len(study)):
            self.rows[trial] = self._taken_up(trial, known.get(trial))
            if known.get(trial) is None or known[trial].state is not self.rows[trial].state:
                self._attempt.add_trial(self.rows[trial])
        self._share_at_start = self._share_done()
        self.take_answers()

    def take_answers(self) -> None:
        """Scores the trials by what people have answered so far, in a search by eye."""
        self.rows = scored(self._spec, self._folder, self.rows)

    def missing_answers(self) -> int:
        """Answers that a search by eye waits for before it goes on; 0 while it needs none."""
        return self._study.missing_answers()

    def answered(self) -> int:
        """Pairs of trials that people have compared."""
        return len(read_answers(self._folder))

    def close_scores(self) -> None:
        """Ends a search by eye: writes each trial's score into the journal, its row and its curve.

        Raises:
            FencedError: a newer attempt exists.
        """
        self.take_answers()
        for trial, row in self.rows.items():
            score = row.metrics.get(HUMAN_SCORE)
            self._study.score(trial, score)
            if score is not None:
                self._attempt.add_trial(row)
                own = self._folder.trial(trial)
                last = max((one.step for one in own.history()), default=0)
                own.attempt(self._attempt.number).add_metrics(last, {HUMAN_SCORE: score})

    def open(self) -> list[int]:
        """Trials that were proposed and are neither over nor running."""
        return [trial for trial, row in self.rows.items() if not row.is_over and trial not in self._running]

    def propose(self) -> int | None:
        """Adds the next trial that the study proposes; None where there is none now. Raises: FencedError."""
        trial = self._study.ask()
        if trial is not None:
            self._put(self._row(trial))
        return trial

    def refuse(self, trial: int, reason: str) -> None:
        """Ends a trial whose parameters the config refuses beside each other."""
        self._end(trial, TrialState.FAILED, reason, bad=True)

    def mark_running(self, trial: int) -> None:
        """Notes that a trial starts."""
        self._running.add(trial)
        if not self.rows[trial].is_over:
            row = self._row(trial)
            row.state = TrialState.RUNNING
            self._put(row)

    def evaluate(self, trial: int) -> Verdict:
        """Takes the evaluations that a running trial has made, and says whether it goes on.

        Raises:
            FencedError: a newer attempt exists.
        """
        if self.rows[trial].is_over:
            return Verdict.STOP
        verdict = self._study.report(trial, evaluations(self._folder.trial(trial)))
        row = self._row(trial)
        row.state = TrialState.RUNNING
        ended = self._study.ended(trial)
        if ended is not None:
            row.state, row.message = ended
        self._put(row)
        return verdict

    def mark_ended(self, trial: int, error: str | None = None) -> None:
        """Notes that a trial's process has ended, or with an error that it was given up."""
        self._running.discard(trial)
        if self.rows[trial].is_over:
            return
        if error is not None:
            self._end(trial, TrialState.FAILED, error)
            return
        row = self._row(trial)
        self._study.report(trial, evaluations(self._folder.trial(trial)), decides=not row.is_over)
        if self._study.ended(trial) is None and row.is_over:
            self._end(trial, row.state, row.message, bad=self._is_bad(trial))
        else:
            self._put(self._taken_up(trial, None))

    def is_idle(self) -> bool:
        """Whether no trial runs."""
        return not self._running

    def counts(self) -> tuple[int, int]:
        """How many trials have been proposed, and how many of these are over."""
        return len(self.rows), sum(row.is_over for row in self.rows.values())

    def has_all(self) -> bool:
        """Whether all trials have been proposed and none waits for its turn."""
        return len(self.rows) >= self._total and not self.open()

    def is_whole(self) -> bool:
        """Whether every trial that will be has ended."""
        return not self.open() and self.is_idle() and self._study.ask_is_done()

    def winner(self) -> TrialRow | None:
        """The best trial so far; see `jobs.tuning.trials.winner`."""
        return winner(self._spec, self.rows)

    def write_progress(self, phase: Phase, *, missing: int | None = None) -> None:
        """Writes the heartbeat; trials count as iterations, and the epochs are those of all trials together.

        Args:
            phase: of the search.
            missing: answers of people that it waits for.
        """
        states = [row.state for row in self.rows.values()]
        states += [TrialState.PENDING] * (self._total - len(states))
        best = self.winner()
        share = self._share_done()
        gained = share - self._share_at_start
        now = time.time()
        progress = Progress(
            time=now,
            last_progress_at=now,
            phase=phase,
            iteration=sum(row.is_over for row in self.rows.values()),
            iterations=self._total,
            epoch=sum(row.epoch for row in self.rows.values()),
            epochs=self._spec.base.schedule.epochs * self._total,
            val_mse=best.metrics.get(SelectionMetric.MSE.row_name) if best else None,
            eta_seconds=(now - self._started_at) * (1 - share) / gained if gained > 0 and not missing else None,
            trials={state: states.count(state) for state in sorted(set(states))},
            best_trial=best.trial if best else None,
            best_metrics={name: best.metrics[name] for name in self._spec.goals} if best else None,
            comparisons_missing=missing,
        )
        self._attempt.write_progress(progress)

    def _taken_up(self, trial: int, known: TrialRow | None) -> TrialRow:
        """The row of a trial that does not run, which the study knows of afterwards as well."""
        row = self._row(trial)
        if self._study.ended(trial) is None and known is not None and known.is_over:
            row.state, row.message = known.state, known.message
        if self._study.ended(trial) is None and row.is_over:
            # Its driver ended before it heard of that.
            self._study.report(trial, evaluations(self._folder.trial(trial)), decides=False)
            self._study.tell(trial, row.state, row.metrics, row.message, bad=self._is_bad(trial))
        ended = self._study.ended(trial)
        if ended is not None:
            row.state, row.message = ended
        if known is not None and known.state is row.state:
            row.time = known.time
        return row

    def _end(self, trial: int, state: TrialState, reason: str | None, *, bad: bool = False) -> None:
        row = self._row(trial)
        self._study.tell(trial, state, row.metrics, reason, bad=bad)
        row.state, row.message = self._study.ended(trial) or (state, reason)
        self._put(row)

    def _is_bad(self, trial: int) -> bool:
        own = self._folder.trial(trial)
        return is_bad(failure_of([seed_folder(own, self._folder, number) for number in range(self._spec.seeds)]))

    def _row(self, trial: int) -> TrialRow:
        row = row_of(self._spec, self._folder, trial, self._study.params(trial))
        row.parent, row.time = self._study.parent(trial), time.time()
        return row

    def _put(self, row: TrialRow) -> None:
        self.rows[row.trial] = row
        self.take_answers()
        self._attempt.add_trial(self.rows[row.trial])
        self.write_progress(Phase.TRAINING)

    def _share_done(self) -> float:
        """How much of the search is done, 0 to 1."""
        epochs = self._spec.base.schedule.epochs
        return sum(1.0 if row.is_over else min(1.0, row.epoch / epochs) for row in self.rows.values()) / self._total
