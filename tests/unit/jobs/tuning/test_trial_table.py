"""The table of a search's trials, in folders that the test writes as trials would."""

from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome, Phase, Result
from jobs.specs import TuneSpec
from jobs.tuning.study import Verdict
from tests.unit.jobs.tuning.fake_driver import evaluate, table_of

SUCCEEDED = Result(outcome=Outcome.SUCCEEDED)


def test_the_trial_table_follows_the_trials(folder: JobFolder, tune_spec: TuneSpec) -> None:
    attempt = folder.attempt(1)
    trial_table = table_of(tune_spec, folder)
    assert [trial_table.propose(), trial_table.propose()] == [0, 1]
    assert trial_table.open() == [0, 1]
    trial_table.mark_running(0)
    trial_table.mark_running(1)
    assert trial_table.open() == []
    assert not trial_table.is_idle()
    evaluate(folder, 0, 1.0, 0.5)
    assert trial_table.evaluate(0) is Verdict.GO_ON
    progress = attempt.read_progress()
    assert progress is not None
    assert progress.trials == {"pending": 1, "running": 2}
    assert (progress.phase, progress.epoch, progress.epochs) == (Phase.TRAINING, 1.0, 9.0)
    assert progress.eta_seconds is not None
    assert progress.eta_seconds >= 0
    assert (progress.best_trial, progress.best_metrics) == (None, None)
    folder.trial(0).attempt(1).write_result(SUCCEEDED)
    trial_table.mark_ended(0)
    trial_table.mark_ended(1, error="lost")
    assert trial_table.is_idle()
    assert {trial: row.state for trial, row in folder.trials().items()} == {0: "succeeded", 1: "failed"}
    assert folder.trials()[1].message == "lost"
    progress = attempt.read_progress()
    assert progress is not None
    assert (progress.iteration, progress.iterations, progress.val_mse) == (2, 3, 0.5)
    assert progress.trials == {"pending": 1, "succeeded": 1, "failed": 1}
    assert (progress.best_trial, progress.best_metrics) == (0, {"val/objective": 0.5})
    assert not trial_table.is_whole()
    best = trial_table.winner()
    assert best is not None
    assert best.trial == 0


def test_a_search_that_is_taken_up_again_knows_which_trials_were_over(folder: JobFolder, tune_spec: TuneSpec) -> None:
    first = table_of(tune_spec, folder)
    for trial, value in enumerate((0.5, 0.4, 0.6)):
        assert first.propose() == trial
        first.mark_running(trial)
        evaluate(folder, trial, 1.0, value)
        # The first two of three are each the best so far.
        assert first.evaluate(trial) is (Verdict.STOP if trial == 2 else Verdict.GO_ON)
    folder.trial(1).attempt(1).write_result(SUCCEEDED)
    # The driver dies here: it has not heard of trial 1's end, and trial 0 runs on for a moment.
    second = table_of(tune_spec, folder, attempt=2)
    assert [row.state for row in second.rows.values()] == ["pending", "succeeded", "stopped"]
    assert second.open() == [0]
    second.mark_running(2)
    assert second.rows[2].state == "stopped"
    assert {trial: row.state for trial, row in folder.trials().items()} == {
        trial: row.state for trial, row in second.rows.items()
    }


def test_a_paused_trial_waits_for_the_next_attempt(folder: JobFolder, tune_spec: TuneSpec) -> None:
    table = table_of(tune_spec, folder)
    assert table.propose() == 0
    table.mark_running(0)
    evaluate(folder, 0, 1.0, 0.5)
    folder.trial(0).attempt(1).write_result(Result(outcome=Outcome.PAUSED))
    table.mark_ended(0)
    assert table.rows[0].state == "pending"
    assert table.open() == [0]
    assert not table.is_whole()


def test_a_trial_that_the_config_refuses_is_a_bad_one_and_not_the_end(folder: JobFolder, tune_spec: TuneSpec) -> None:
    table = table_of(tune_spec, folder)
    assert table.propose() == 0
    table.refuse(0, "the config refuses these values together")
    assert (table.rows[0].state, table.rows[0].message) == ("failed", "the config refuses these values together")
    assert table.propose() == 1
