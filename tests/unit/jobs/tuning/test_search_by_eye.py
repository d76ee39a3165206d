"""A search whose objective is a person: what is proposed, waited for, kept and won, without a cluster."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from optuna.trial import TrialState as OptunaState

from jobs.directory.carry_over import inherit_search
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Phase, TrialState, Want
from jobs.driver import DriverContext
from jobs.preferences.answers import add_answer, read_answers
from jobs.preferences.pairs import missing_answers, next_pairs, trials_of
from jobs.preferences.scores import bradley_terry
from jobs.preferences.waiting import wait_for_answers
from jobs.search.space import Params
from jobs.specs import TuneSpec
from jobs.tuning.search_report import write_search_report
from jobs.tuning.study import SearchStudy
from jobs.tuning.trial_table import TrialTable
from tests.tiny import TINY
from tests.unit.jobs.tuning.fake_driver import drive, table_of

_SPACE = {"alpha_mseot": {"low": 0.1, "high": 10}, "model.localizer.kind": {"kind": "choice", "values": ["small"]}}


def _spec(**fields: Any) -> TuneSpec:
    plain = {"kind": "tune", "name": "s", "base": TINY, "space": _SPACE, "trials": 12, "objective": "human"}
    return TuneSpec.model_validate(plain | fields)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def search(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path / "jobs" / "job_1")


def _curve(params: Params, epoch: float) -> float:
    """By this the trials are equal: only people see a difference."""
    return 1 / (1 + epoch)


def _demerit(params: Params) -> float:
    return abs(float(params["loss.alpha_mseot"]) - 3)


def _answer_one(spec: TuneSpec, folder: JobFolder) -> int:
    """Answers the next pair as a person would to whom 3 looks best."""
    rows = folder.trials()
    usable = [trial for trial, row in rows.items() if row.state.has_model]
    answers = read_answers(folder)
    (pair,) = next_pairs(bradley_terry(usable, answers.values()), answers, 1)
    better = min(trials_of(pair), key=lambda trial: _demerit(rows[trial].params))
    add_answer(folder, pair, better, "ada", most=spec.most_comparisons)
    return pair


def _answer(spec: TuneSpec, folder: JobFolder, table: TrialTable) -> int:
    count = table.missing_answers()
    for _ in range(count):
        _answer_one(spec, folder)
    return count


def _to_the_end(spec: TuneSpec, folder: JobFolder) -> tuple[TrialTable, list[tuple[int, int]]]:
    """Runs a search by eye; after each answer its driver is another one."""
    waits: list[tuple[int, int]] = []
    for attempt in range(1, 200):
        table = drive(spec, folder, _curve, attempt)
        answered = _answer(spec, folder, table)
        if answered == 0:
            return table, waits
        waits.append((len(table.rows), answered))
    raise AssertionError("it never ends")


def test_a_search_by_eye_ends_with_its_trials_and_its_comparisons(search: JobFolder) -> None:
    spec = _spec(comparisons=26)
    table, waits = _to_the_end(spec, search)
    assert table.is_whole()
    assert list(table.rows) == list(range(12))
    assert len(read_answers(search)) == sum(answered for _, answered in waits) == 26
    # Each further trial waited for some, and the end for the rest.
    assert [proposed for proposed, _ in waits] == list(range(4, 13))
    best = table.winner()
    assert best is not None
    # 26 of 66 pairs don't tell the best from the second best.
    assert best.trial in sorted(table.rows, key=lambda trial: _demerit(table.rows[trial].params))[:2]
    scores = {trial: row.metrics["human/score"] for trial, row in table.rows.items()}
    assert scores[best.trial] == max(scores.values())
    # What people liked is what was tried: the metrics know no difference.
    later = [_demerit(table.rows[trial].params) for trial in range(6, 12)]
    assert fmean(later) < fmean(_demerit(table.rows[trial].params) for trial in range(4))


def test_the_journal_has_the_scores_when_the_search_has_ended(search: JobFolder) -> None:
    spec = _spec(trials=5)
    table, _ = _to_the_end(spec, search)
    study = SearchStudy(spec, search)
    assert {trial.state for trial in study.study.get_trials()} == {OptunaState.RUNNING}
    assert [study.ended(trial) for trial in range(5)] == [(TrialState.SUCCEEDED, None)] * 5
    table.close_scores()
    closed = SearchStudy(spec, search)
    trials = closed.study.get_trials()
    assert {trial.state for trial in trials} == {OptunaState.COMPLETE}
    rows = search.trials()
    assert [trial.value for trial in trials] == [rows[trial].metrics["human/score"] for trial in range(5)]
    assert closed.study.best_trial.number == getattr(table.winner(), "trial", None)
    # A driver that is killed meanwhile does it again, to the same end.
    before = {trial: list(search.trial(trial).history()) for trial in range(5)}
    again = drive(spec, search, _curve, 100)
    again.close_scores()
    assert [trial.value for trial in SearchStudy(spec, search).study.get_trials()] == [trial.value for trial in trials]
    assert {trial: list(search.trial(trial).history()) for trial in range(5)} == before
    for trial, history in before.items():
        assert [row.metrics["human/score"] for row in history if "human/score" in row.metrics] == [
            rows[trial].metrics["human/score"]
        ]


def test_what_was_never_compared_has_no_score(search: JobFolder) -> None:
    spec = _spec(trials=4, comparisons=1)
    table, _ = _to_the_end(spec, search)
    table.close_scores()
    scores = [row.metrics.get("human/score") for row in table.rows.values()]
    assert sum(score is not None for score in scores) == 2
    study = SearchStudy(spec, search)
    assert [study.ended(trial) for trial in range(4)] == [(TrialState.SUCCEEDED, None)] * 4
    assert sum(trial.state is OptunaState.FAIL for trial in study.study.get_trials()) == 2


def test_a_damaged_journal_costs_no_trial_and_no_answer(search: JobFolder) -> None:
    spec = _spec(trials=6)
    table = drive(spec, search, _curve)
    _answer(spec, search, table)
    params = {trial: row.params for trial, row in table.rows.items()}
    (search.path / "optuna.journal").write_text("{}\n")
    again = table_of(spec, search, 2)
    assert {trial: row.params for trial, row in again.rows.items()} == params
    assert again.missing_answers() == 0
    assert all(row.state is TrialState.SUCCEEDED for row in again.rows.values())


def test_a_search_that_repeats_another_keeps_answers_and_pictures(search: JobFolder, tmp_path: Path) -> None:
    spec = _spec(trials=6)
    table = drive(spec, search, _curve)
    _answer(spec, search, table)
    frames = search.trial(0).attempt(1).frames
    frames.mkdir(parents=True)
    for step in (4, 12):
        (frames / f"{step}.png").write_bytes(str(step).encode())
    mine = JobFolder(tmp_path / "jobs" / "job_2")
    inherit_search(search, mine)
    assert read_answers(mine) == read_answers(search) != {}
    assert mine.trial(0).attempt(0).frame_steps() == [12]
    assert (mine.trial(0).attempt(0).frames / "12.png").read_bytes() == b"12"
    again = table_of(spec, mine)
    assert again.missing_answers() == 0
    assert [row.metrics.get("human/score") for row in again.rows.values()] == [
        row.metrics.get("human/score") for row in table_of(spec, search, 2).rows.values()
    ]


def test_the_report_says_that_people_chose(search: JobFolder) -> None:
    spec = _spec(trials=8)
    table, _ = _to_the_end(spec, search)
    table.close_scores()
    best = table.winner()
    assert best is not None
    write_search_report(search.attempt(1), spec, table.rows, best, SearchStudy(spec, search))
    report = search.attempt(1).read_search_report()
    assert report is not None
    assert report.best_trial == best.trial
    told = " ".join(report.why)
    assert f"Trial {best.trial} of 8 is the best: human/score" in told
    assert "People chose it, in 16 comparisons" in told
    assert "epoch" not in told
    assert "median of the" not in told, "scores are around 0 whatever the trials are like"
    assert report.importances
    assert not (search.attempt(1).artifacts / "search-best-so-far.png").exists()
    assert (search.attempt(1).artifacts / "search-slices.png").exists()


def _context(folder: JobFolder) -> DriverContext:
    return DriverContext(folder, folder.attempt(1), folder.path / "cache", None, None, None)


@pytest.fixture
def on_sleep(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens while the driver sleeps, one after the other; it must not sleep more often than that."""
    acts: list[Callable[[], object]] = []

    def sleep(seconds: float) -> None:
        assert seconds >= 1, "it spins"
        acts.pop(0)()

    monkeypatch.setattr(time, "sleep", sleep)
    return acts


def test_a_driver_says_that_it_waits_and_goes_on_when_enough_is_answered(
    search: JobFolder, on_sleep: list[Callable[[], object]]
) -> None:
    spec = _spec(trials=3, comparisons=2)
    table = drive(spec, search, _curve)
    while table.missing_answers() and len(table.rows) < 3:
        _answer_one(spec, search)
        table = drive(spec, search, _curve, 2)
    told = []

    def act() -> None:
        progress = search.attempt(2).read_progress()
        assert progress is not None
        told.append((progress.phase, progress.comparisons_missing, progress.iteration, progress.eta_seconds))
        _answer_one(spec, search)

    missing = table.missing_answers()
    assert missing > 0
    on_sleep.extend([act] * missing)
    assert wait_for_answers(_context(search), table)
    assert told == [(Phase.TRAINING, left, 3, None) for left in range(missing, 0, -1)]
    assert not wait_for_answers(_context(search), table)
    assert missing_answers(spec, 3, 3, len(read_answers(search))) == 0


@pytest.mark.parametrize("control", [Control(attempt=1, want=Want.PAUSE), Control(attempt=1, want=Want.CANCEL)])
def test_a_search_that_waits_for_people_can_be_stopped(
    search: JobFolder, on_sleep: list[Callable[[], object]], control: Control
) -> None:
    search.write_control(Control(attempt=1))
    table = drive(_spec(trials=4), search, _curve)
    on_sleep.extend([lambda: None, lambda: search.write_control(control)])
    wait_for_answers(_context(search), table)
    assert on_sleep == []
    assert table.missing_answers() > 0


def test_a_search_by_metrics_never_waits(search: JobFolder, on_sleep: list[Callable[[], object]]) -> None:
    spec = _spec(objective="metrics", trials=3)
    assert not wait_for_answers(_context(search), drive(spec, search, _curve))
