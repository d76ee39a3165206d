"""The table of a search's trials, in folders that the test writes as trials would."""

from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome, Phase, Result
from jobs.specs import TuneSpec
from jobs.tuning.trial_table import TrialTable

SUCCEEDED = Result(outcome=Outcome.SUCCEEDED)


def _evaluate(folder: JobFolder, trial: int, epoch: float, error: float, attempt: int = 1) -> None:
    metrics = {"val/mse": error, "val/objective": error, "val/fg_ari": 1 - error, "val/epoch": epoch}
    folder.trial(trial).attempt(attempt).add_metrics(int(4 * epoch), metrics)


def test_the_trial_table_follows_the_trials(folder: JobFolder, tune_spec: TuneSpec) -> None:
    attempt = folder.attempt(1)
    trial_table = TrialTable(tune_spec, folder, attempt)
    trial_table.mark_running(0)
    trial_table.mark_running(1)
    assert not trial_table.is_idle()
    _evaluate(folder, 0, 1.0, 0.5)
    trial_table.mark_running(0)
    progress = attempt.read_progress()
    assert progress is not None
    assert progress.trials == {"pending": 1, "running": 2}
    assert (progress.phase, progress.epoch, progress.epochs) == (Phase.TRAINING, 1.0, 9.0)
    assert progress.eta_seconds is not None
    assert progress.eta_seconds >= 0
    trial_table.mark_ended(0)
    trial_table.mark_ended(1, error="lost")
    assert trial_table.is_idle()
    assert {trial: row.state for trial, row in folder.trials().items()} == {0: "stopped", 1: "failed"}
    assert folder.trials()[1].message == "lost"
    progress = attempt.read_progress()
    assert progress is not None
    assert (progress.iteration, progress.iterations, progress.val_mse) == (2, 3, 0.5)
    best = trial_table.winner()
    assert best is not None
    assert best.trial == 0


def test_a_search_that_is_taken_up_again_knows_which_trials_were_over(folder: JobFolder, tune_spec: TuneSpec) -> None:
    first = TrialTable(tune_spec, folder, folder.attempt(1))
    for trial in range(3):
        first.mark_running(trial)
        _evaluate(folder, trial, 1.0, 0.5)
        first.mark_running(trial)
    first.mark_ended(0)
    folder.trial(1).attempt(1).write_result(SUCCEEDED)
    # The driver dies here: it has not heard of trial 1's end, and trial 2 runs on for a moment.
    second = TrialTable(tune_spec, folder, folder.attempt(2))
    assert [row.state for row in second.rows.values()] == ["stopped", "succeeded", "pending"]
    second.mark_running(0)
    assert second.rows[0].state == "stopped"
