"""The study of a search: what is proposed, stopped, remembered and taken up, without a cluster."""

import os
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState

from jobs.directory.layout import JobFolder
from jobs.directory.records import Failure, Outcome, Result, TrialState
from jobs.errors import ErrorClass, FencedError
from jobs.search.space import Params
from jobs.specs import TuneSpec
from jobs.tuning.journal import JOURNAL
from jobs.tuning.study import SearchStudy, Verdict
from jobs.tuning.trials import trial_spec
from tests.tiny import TINY
from tests.unit.jobs.tuning.fake_driver import drive, evaluate, table_of

SPACE = {
    "alpha_mseot": {"low": 0.1, "high": 10},
    "schedule.learning_rate": {"kind": "loguniform", "low": 1e-4, "high": 1e-2},
    "model.attention.kernel_size": {"kind": "int", "low": 8, "high": 16, "step": 4},
    "model.localizer.kind": {"kind": "choice", "values": ["seeker", "small"]},
    "loss.alpha_location": {"kind": "uniform", "low": 0, "high": 1, "when": {"model.localizer.kind": ["seeker"]}},
}


def _spec(space: dict[str, Any] | None = None, **fields: Any) -> TuneSpec:
    base = TINY | {"schedule": TINY["schedule"] | {"epochs": 9}}
    return TuneSpec.model_validate(
        {"kind": "tune", "name": "s", "base": base, "space": space or SPACE, "trials": 12} | fields
    )


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses power, and waiting for the disk is most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def search(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path / "jobs" / "job_1")


def _curve(params: Params, epoch: float) -> float:
    """Best where alpha_mseot is 3; all improve with time."""
    return abs(float(params["loss.alpha_mseot"]) - 3) / 10 + 1 / (1 + epoch)


def _states(folder: JobFolder) -> dict[int, TrialState]:
    return {trial: row.state for trial, row in folder.trials().items()}


def _check_agreement(spec: TuneSpec, folder: JobFolder) -> None:
    """The journal has each trial that the rows have, once, with the same parameters, state and evaluations."""
    rows = folder.trials()
    study = SearchStudy(spec, folder)
    trials = study.study.get_trials(deepcopy=False)
    assert [trial.number for trial in trials] == list(rows)
    for number, row in rows.items():
        assert study.params(number) == row.params
        assert study.ended(number) == (row.state, row.message)
        assert trials[number].intermediate_values.keys() <= {
            round(1000 * one.metrics["val/epoch"]) for one in folder.trial(number).history()
        }


def test_a_search_ends_with_the_trials_it_was_asked_for(search: JobFolder) -> None:
    spec = _spec()
    table = drive(spec, search, _curve)
    assert table.is_whole()
    assert list(table.rows) == list(range(12))
    states = list(_states(search).values())
    assert set(states) <= {TrialState.SUCCEEDED, TrialState.STOPPED}
    # One in three goes on at each rung.
    assert states.count(TrialState.STOPPED) >= 6
    for row in table.rows.values():
        assert ("loss.alpha_location" in row.params) == (row.params["model.localizer.kind"] == "seeker")
        assert row.params["model.attention.kernel_size"] in (8, 12, 16)
        if row.state is TrialState.STOPPED:
            assert str(row.message).startswith(f"stopped by asha at epoch {row.epoch:.3g} with val/objective")
            assert row.epoch in (1, 3)
    _check_agreement(spec, search)


def test_what_is_proposed_follows_from_the_seed_and_what_was_seen(tmp_path: Path) -> None:
    def params(name: str, **fields: Any) -> list[Params]:
        folder = JobFolder(tmp_path / name)
        return [row.params for row in drive(_spec(**fields), folder, _curve, at_once=1).rows.values()]

    assert params("a") == params("b")
    assert params("a")[0] != params("c", seed=1)[0]
    drawn = params("a")
    assert len({str(one) for one in drawn}) == len(drawn)


def test_tpe_looks_where_good_trials_were(search: JobFolder) -> None:
    table = drive(_spec(trials=20, scheduler="none"), search, _curve)
    distances = [abs(float(row.params["loss.alpha_mseot"]) - 3) for row in table.rows.values()]
    assert sum(distances[-7:]) < sum(distances[:7])


@pytest.mark.parametrize("sampler", ["tpe", "random", "cma-es", "nsga-ii"])
def test_every_sampler_goes_on_after_a_restart(search: JobFolder, sampler: str) -> None:
    drive(_spec(trials=4, sampler=sampler), search, _curve)
    spec = _spec(trials=12, sampler=sampler)
    table = drive(spec, search, _curve, attempt=2)
    assert table.is_whole()
    drawn = [str(sorted(row.params.items())) for row in table.rows.values()]
    # A sampler that began again would draw the first ones once more.
    assert len(set(drawn)) == 12
    _check_agreement(spec, search)


def test_the_grid_is_taken_point_by_point(search: JobFolder) -> None:
    space = {"bottleneck": [4, 8], "loss.alpha_mseot": {"kind": "uniform", "low": 1, "high": 3}}
    table = drive(_spec(space, sampler="grid", trials=99), search, _curve)
    points = [(row.params["model.coder.bottleneck"], row.params["loss.alpha_mseot"]) for row in table.rows.values()]
    assert points == [(4, 1), (4, 2), (4, 3), (8, 1), (8, 2), (8, 3)]
    assert table.is_whole()


@pytest.mark.parametrize("scheduler", ["asha", "median", "hyperband", "pbt", "none"])
def test_every_scheduler_ends(search: JobFolder, scheduler: str) -> None:
    space = {key: SPACE[key] for key in ("alpha_mseot", "schedule.learning_rate")}
    spec = _spec(space, scheduler=scheduler)
    table = drive(spec, search, _curve)
    assert table.is_whole()
    assert len(table.rows) <= 12
    stopped = [row for row in table.rows.values() if row.state is TrialState.STOPPED]
    assert bool(stopped) == (scheduler != "none")
    assert all(row.message and row.epoch >= 1 for row in stopped)
    _check_agreement(spec, search)


def test_population_based_training_goes_on_with_copies_of_the_best(search: JobFolder) -> None:
    space = {key: SPACE[key] for key in ("alpha_mseot", "schedule.learning_rate")}
    table = drive(_spec(space, scheduler="pbt", population=4), search, _curve, at_once=4)
    copies = [row for row in table.rows.values() if row.parent is not None]
    assert copies
    for row in copies:
        parent = table.rows[row.parent or 0]
        assert row.params != parent.params
        for path, value in row.params.items():
            assert float(value) / float(parent.params[path]) == pytest.approx(0.8) or float(value) / float(
                parent.params[path]
            ) == pytest.approx(1.2)
    assert sum(row.state is TrialState.STOPPED for row in table.rows.values()) == len(copies)


class _Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


@pytest.mark.parametrize("seed", range(4))
def test_a_driver_that_is_killed_at_random_moments_loses_and_doubles_nothing(
    search: JobFolder, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write to the journal may be its last, whole, half or not at all."""
    spec, random = _spec(), Random(seed)
    left = [random.randrange(2, 35)]
    write = JournalFileBackend.append_logs

    def dies(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        left[0] -= 1
        if left[0] == 0:
            how = random.choice(["before", "half", "after"])
            if how == "after":
                write(self, logs)
            if how == "half":
                with Path(self._file_path).open("ab") as file:
                    file.write(b'{"op_code":4,"wor')
            raise _Killed
        write(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", dies)
    kills, attempt, over = 0, 1, dict[int, float]()
    while True:
        try:
            table = drive(spec, search, _curve, attempt)
            break
        except _Killed:
            kills += 1
            attempt += 1
            left[0] = random.randrange(2, 35) if kills < 5 else -1
            over = {trial: row.epoch for trial, row in search.trials().items() if row.is_over}
    assert kills == 5
    left[0] = -1
    assert table.is_whole()
    assert list(table.rows) == list(range(12))
    for trial, epoch in over.items():
        # It did not train again.
        assert search.trials()[trial].epoch == epoch
    for trial in range(12):
        epochs = [row.metrics["val/epoch"] for one in search.trial(trial).attempts() for row in one.metrics()]
        assert epochs == sorted(set(epochs))
    _check_agreement(spec, search)


def test_a_trial_that_was_cut_short_while_it_was_proposed_keeps_what_it_had(
    search: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _spec()
    study = SearchStudy(spec, search)
    handle = study.study.ask()
    drawn = handle.suggest_float("loss.alpha_mseot", 0.1, 10, log=True)
    table = table_of(spec, search)
    assert table.open() == [0]
    assert table.rows[0].params["loss.alpha_mseot"] == drawn
    assert "schedule.learning_rate" in table.rows[0].params
    assert SearchStudy(spec, search).params(0) == table.rows[0].params


def test_a_damaged_journal_is_put_aside_and_made_anew_of_the_folders(search: JobFolder) -> None:
    spec = _spec(trials=6)
    before = drive(spec, search, _curve).rows
    journal = search.path / JOURNAL
    journal.write_bytes(journal.read_bytes().replace(b"{", b"", 1))
    table = table_of(spec, search, attempt=2)
    assert {trial: (row.params, row.state) for trial, row in table.rows.items()} == {
        trial: (row.params, row.state) for trial, row in before.items()
    }
    assert table.is_whole()
    assert len(list(search.path.glob(f"{JOURNAL}.damaged-*"))) == 1
    _check_agreement(spec, search)


def test_a_trial_that_came_to_its_end_stays_so_when_the_journal_is_made_anew(search: JobFolder) -> None:
    """Beside the first one it would have been stopped at its first evaluation."""
    spec = _spec({"alpha_mseot": {"low": 0.1, "high": 10}}, trials=3)
    for trial, value in enumerate((0.1, 0.9)):
        search.trial(trial).write_spec(trial_spec(spec, {"loss.alpha_mseot": 1.0 + trial}))
        for epoch in range(1, 10):
            evaluate(search, trial, epoch, value)
        search.trial(trial).attempt(1).write_result(Result(outcome=Outcome.SUCCEEDED))
    table = table_of(spec, search, attempt=2)
    assert [row.state for row in table.rows.values()] == [TrialState.SUCCEEDED] * 2
    # And later ones are compared with both.
    assert table.propose() == 2
    table.mark_running(2)
    evaluate(search, 2, 1, 0.5, attempt=2)
    assert table.evaluate(2) is Verdict.STOP
    _check_agreement(spec, search)


def test_trials_of_the_release_before_are_taken_up(search: JobFolder) -> None:
    """It wrote no journal; of a trial its folder and its rows say all."""
    spec = _spec({"alpha_mseot": {"low": 0.1, "high": 10}, "bottleneck": [4, 8]}, trials=4)
    for trial, alpha in enumerate((0.5, 5.0)):
        search.trial(trial).write_spec(trial_spec(spec, {"loss.alpha_mseot": alpha, "model.coder.bottleneck": 8}))
        evaluate(search, trial, 1, alpha)
    with (
        (search.attempt(1).path / "trials.jsonl").open("w") if search.attempt(1).path.is_dir() else _new(search) as file
    ):
        file.write('{"trial": 0, "state": "stopped", "params": {"loss.alpha_mseot": 0.5}, "epoch": 1.0}\n')
        file.write('{"trial": 1, "state": "running", "params": {"loss.alpha_mseot": 5.0}, "epoch": 1.0}\n')
    table = table_of(spec, search, attempt=2)
    assert [row.state for row in table.rows.values()] == [TrialState.STOPPED, TrialState.PENDING]
    assert [row.params["loss.alpha_mseot"] for row in table.rows.values()] == [0.5, 5.0]
    assert table.open() == [1]
    assert drive(spec, search, _curve, attempt=3).is_whole()


def _new(search: JobFolder) -> Any:
    search.attempt(1).path.mkdir(parents=True)
    return (search.attempt(1).path / "trials.jsonl").open("w")


def test_a_fenced_driver_writes_nothing(search: JobFolder) -> None:
    fenced = [False]

    def check() -> None:
        if fenced[0]:
            raise FencedError("a newer one exists")

    study = SearchStudy(_spec(), search, check)
    assert study.ask() == 0
    before = (search.path / JOURNAL).read_bytes()
    fenced[0] = True
    with pytest.raises(FencedError):
        study.ask()
    with pytest.raises(FencedError):
        study.report(0, {1.0: {"val/objective": 1.0}})
    with pytest.raises(FencedError):
        study.tell(0, TrialState.SUCCEEDED, {"val/objective": 1.0}, None)
    assert (search.path / JOURNAL).read_bytes() == before


@pytest.mark.parametrize(
    ("error", "state"), [(ErrorClass.DIVERGED, OptunaState.PRUNED), (ErrorClass.INTERNAL, OptunaState.FAIL)]
)
def test_a_trial_that_fails_is_told_with_its_reason(search: JobFolder, error: ErrorClass, state: OptunaState) -> None:
    spec = _spec()
    table = table_of(spec, search)
    assert table.propose() == 0
    table.mark_running(0)
    evaluate(search, 0, 1, 0.5)
    failure = Failure(error_class=error, message="the loss is nan")
    search.trial(0).attempt(1).write_result(Result(outcome=Outcome.FAILED, error=failure))
    table.mark_ended(0)
    assert (table.rows[0].state, table.rows[0].message) == (TrialState.FAILED, "the loss is nan")
    trial = SearchStudy(spec, search).study.get_trials()[0]
    assert trial.state is state
    # What its parameters have done the sampler is to keep away from.
    assert (trial.constraints != {}) == (error is ErrorClass.DIVERGED)
    _check_agreement(spec, search)


def test_a_stopped_trial_stays_so_whatever_is_reported_later(search: JobFolder) -> None:
    table = table_of(_spec(), search)
    for trial, value in enumerate((0.1, 0.9)):
        assert table.propose() == trial
        table.mark_running(trial)
        evaluate(search, trial, 1, value)
        verdict = table.evaluate(trial)
    assert verdict is Verdict.STOP
    evaluate(search, 1, 2, 0.01)
    assert table.evaluate(1) is Verdict.STOP
    table.mark_ended(1)
    assert table.rows[1].state is TrialState.STOPPED
    assert table.rows[1].epoch == 1


def test_an_earlier_searchs_trials_are_known_from_the_start(tmp_path: Path) -> None:
    earlier = JobFolder(tmp_path / "job_1")
    drive(_spec(), earlier, _curve)
    spec = _spec(warm_start="job_1", trials=5)
    folder = JobFolder(tmp_path / "job_2")
    study = SearchStudy(spec, folder)
    warm = study.study.get_trials(deepcopy=False)
    assert len(study) == 0
    assert len(warm) == 12
    assert [trial.params for trial in warm] == [row.params for row in earlier.trials().values()]
    assert warm[3].user_attrs["warm_start"] == "job_1/3"
    table = drive(spec, folder, _curve)
    # They are not the new search's own, and are not added twice.
    assert list(table.rows) == list(range(5))
    assert len(SearchStudy(spec, folder).study.get_trials()) == 17
    closest = min(abs(float(row.params["loss.alpha_mseot"]) - 3) for row in table.rows.values())
    assert closest < 1


def test_an_earlier_search_that_is_gone_or_elsewhere_seeds_nothing(tmp_path: Path) -> None:
    drive(_spec({"alpha_mseot": {"low": 20, "high": 30}}, trials=2), JobFolder(tmp_path / "job_1"), _curve)
    for name in ("job_1", "job_0"):
        spec = _spec({"alpha_mseot": {"low": 1, "high": 2}}, warm_start=name)
        assert SearchStudy(spec, JobFolder(tmp_path / f"for_{name}")).study.get_trials() == []


def test_several_objectives_end_with_a_front(search: JobFolder) -> None:
    spec = _spec(objectives=["val/mse", "val/fg_ari"], sampler="nsga-ii", trials=8)
    table = drive(spec, search, _curve)
    assert [row.state for row in table.rows.values()] == [TrialState.SUCCEEDED] * 8
    study = optuna.load_study(study_name="search", storage=SearchStudy(spec, search).study._storage)
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert study.metric_names == ["val/mse", "val/fg_ari"]
