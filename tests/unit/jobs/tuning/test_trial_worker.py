"""The process of a trial: real training of a tiny model, and what it reports to the search."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Outcome, Result, Want
from jobs.errors import ErrorClass, WorkersLostError
from jobs.specs import SelectionMetric, TrainSpec
from jobs.training.worker import TrainingTask
from jobs.tuning.trial_worker import TrialRun, run_trial
from jobs.tuning.trials import seed_folder


class _Search:
    """Keeps what a trial reports."""

    def __init__(self) -> None:
        self.reports: list[dict[str, float]] = []
        self.on_report: Callable[[], None] = lambda: None

    def report(self, metrics: dict[str, float]) -> None:
        self.reports.append(metrics)
        self.on_report()

    @property
    def epochs(self) -> list[float]:
        return [metrics["epoch"] for metrics in self.reports]


@pytest.fixture
def search() -> _Search:
    return _Search()


@pytest.fixture
def run(make_task: Callable[[int], TrainingTask], spec: TrainSpec) -> TrialRun:
    return TrialRun(task=make_task(1), scaling=spec.scaling)


def test_a_trial_reports_each_evaluation_and_writes_its_result(
    folder: JobFolder, run: TrialRun, search: _Search
) -> None:
    run_trial(run, search.report)
    # The last evaluation is at the end of the training, which the result tells of.
    rows = [row.metrics for row in folder.history() if "val/mse" in row.metrics]
    assert search.epochs == [1.0, 2.0, 3.0]
    for metric in SelectionMetric:
        name = metric.row_name
        assert [report[name] for report in search.reports] == [row[name] for row in rows]
    assert all(report["train/seconds_per_image"] > 0 for report in search.reports)
    result = folder.attempt(1).read_result()
    assert result is not None
    assert result.outcome is Outcome.SUCCEEDED


def test_a_trial_reports_what_it_had_first_and_trains_no_more_once_it_has_succeeded(
    folder: JobFolder, run: TrialRun, search: _Search
) -> None:
    folder.attempt(0).add_metrics(4, {"val/mse": 0.5, "val/objective": 0.6, "val/fg_ari": 0.7, "val/epoch": 1.0})
    folder.attempt(0).add_metrics(5, {"train/loss": 1.0})
    folder.attempt(0).add_metrics(8, {"val/mse": 0.4, "val/objective": 0.5, "val/epoch": 2.0})
    folder.attempt(0).write_result(Result(outcome=Outcome.SUCCEEDED))
    run_trial(run, search.report)
    # A score over no scenes was not a number, and was left out of the row.
    assert search.reports == [
        {"val/objective": 0.6, "val/mse": 0.5, "val/fg_ari": 0.7, "val/epoch": 1.0, "epoch": 1.0, "seed": 0.0},
        {"val/objective": 0.5, "val/mse": 0.4, "val/epoch": 2.0, "epoch": 2.0, "seed": 0.0},
    ]
    assert [attempt.number for attempt in folder.attempts()] == [0]


def test_a_trial_of_two_seeds_trains_both_and_goes_on_with_the_second(
    folder: JobFolder, run: TrialRun, spec: TrainSpec, search: _Search
) -> None:
    second = seed_folder(folder, folder, 1)
    second.write_spec(spec.model_copy(update={"seed": 1}))
    run_trial(replace(run, seeds=2), search.report)
    assert [(report["seed"], report["epoch"]) for report in search.reports] == [
        (seed, epoch) for seed in (0.0, 1.0) for epoch in (1.0, 2.0, 3.0)
    ]
    ends = [one.attempt(1).read_result() for one in (folder, second)]
    assert all(end is not None and end.outcome is Outcome.SUCCEEDED for end in ends)
    assert ends[0] != ends[1]
    again = _Search()
    (second.attempt(1).path / "result.json").unlink()
    run_trial(replace(run, seeds=2), again.report)
    assert [attempt.checkpoint_steps()[-1] for attempt in second.attempts()] == [12]


def test_a_trial_of_a_search_that_stops_does_not_start(folder: JobFolder, run: TrialRun, search: _Search) -> None:
    folder.write_control(Control(attempt=1, want=Want.PAUSE))
    run_trial(run, search.report)
    assert folder.attempts() == []


def test_a_trial_that_is_paused_says_so(folder: JobFolder, run: TrialRun, search: _Search) -> None:
    search.on_report = lambda: folder.write_control(Control(attempt=1, want=Want.PAUSE))
    run_trial(run, search.report)
    result = folder.attempt(1).read_result()
    assert result is not None
    assert (result.outcome, search.epochs) == (Outcome.PAUSED, [1.0])


def test_a_fenced_trial_writes_no_result(folder: JobFolder, run: TrialRun, search: _Search) -> None:
    search.on_report = lambda: folder.write_control(Control(attempt=2))
    run_trial(run, search.report)
    assert folder.attempt(1).read_result() is None


def test_an_error_of_the_trials_own_is_its_result(folder: JobFolder, run: TrialRun, search: _Search) -> None:
    def fail() -> None:
        raise ValueError("a bug")

    search.on_report = fail
    run_trial(run, search.report)
    result = folder.attempt(1).read_result()
    assert result is not None
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.error_class is ErrorClass.INTERNAL


def test_a_loss_is_raised_so_that_the_trial_is_started_again(folder: JobFolder, run: TrialRun, search: _Search) -> None:
    def fail() -> None:
        raise WorkersLostError("the node has gone")

    search.on_report = fail
    with pytest.raises(WorkersLostError):
        run_trial(run, search.report)
    assert folder.attempt(1).read_result() is None
