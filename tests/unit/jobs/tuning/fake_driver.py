"""A driver of searches without a cluster: it places trials and writes their folders as their processes would."""

from collections.abc import Callable

from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome, Result
from jobs.search.space import Params
from jobs.specs import TuneSpec
from jobs.tuning.study import SearchStudy, Verdict
from jobs.tuning.trial_table import TrialTable
from jobs.tuning.trials import trial_spec

__all__ = ["SUCCEEDED", "Curve", "drive", "evaluate", "table_of"]

SUCCEEDED = Result(outcome=Outcome.SUCCEEDED)

Curve = Callable[[Params, float], float]
"""The objective of a trial's parameters after so many epochs."""


def evaluate(folder: JobFolder, trial: int, epoch: float, value: float, attempt: int = 1) -> None:
    """Writes an evaluation of a trial, as its training does."""
    metrics = {"val/mse": value, "val/objective": value, "val/fg_ari": 1 - value, "val/epoch": epoch}
    folder.trial(trial).attempt(attempt).add_metrics(int(4 * epoch), metrics)


def table_of(spec: TuneSpec, folder: JobFolder, attempt: int = 1) -> TrialTable:
    """The table with which an attempt of a search begins."""
    return TrialTable(spec, folder, folder.attempt(attempt), SearchStudy(spec, folder))


def drive(spec: TuneSpec, folder: JobFolder, curve: Curve, attempt: int = 1, at_once: int = 2) -> TrialTable:
    """Runs a search to its end; each epoch is evaluated.

    Args:
        spec: the search.
        folder: the search's.
        curve: what the trials' evaluations give.
        attempt: of the search.
        at_once: trials that run beside each other.
    """
    table = table_of(spec, folder, attempt)
    waiting, running = table.open(), [0][:0]
    while True:
        while len(running) < at_once:
            trial = waiting.pop(0) if waiting else table.propose()
            if trial is None:
                break
            if not (folder.trial(trial).path / "spec.json").exists():
                folder.trial(trial).write_spec(trial_spec(spec, table.rows[trial].params))
            table.mark_running(trial)
            running.append(trial)
        if not running:
            return table
        for trial in list(running):
            if _step(spec, folder, table, trial, curve, attempt):
                running.remove(trial)
                table.mark_ended(trial)


def _step(spec: TuneSpec, folder: JobFolder, table: TrialTable, trial: int, curve: Curve, attempt: int) -> bool:
    """Trains a trial for an epoch, from where it was; whether it has ended."""
    own = folder.trial(trial)
    done = max((row.metrics["val/epoch"] for row in own.history()), default=0.0)
    if done < spec.base.schedule.epochs:
        evaluate(folder, trial, done + 1, curve(table.rows[trial].params, done + 1), attempt)
    else:
        own.attempt(attempt).write_result(SUCCEEDED)
        return True
    return table.evaluate(trial) is Verdict.STOP
