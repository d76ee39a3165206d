"""A search's trials as data, in folders that the test writes as trials would."""

from collections.abc import Callable

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Failure, Outcome, Result, TrialRow
from jobs.errors import ErrorClass
from jobs.search.space import Params, domains_of
from jobs.specs import SelectionMetric, TuneSpec
from jobs.tuning.trials import (
    evaluations,
    front,
    is_feasible,
    knee,
    params_in,
    row_of,
    seed_folder,
    trial_spec,
    winner,
)
from tests.unit.jobs.tuning.fake_driver import SUCCEEDED
from tests.unit.jobs.tuning.fake_driver import evaluate as _evaluate

FAILED = Result(outcome=Outcome.FAILED, error=Failure(error_class=ErrorClass.DIVERGED, message="nan"))
PARAMS: Params = {"loss.alpha_mseot": 2.5, "model.coder.bottleneck": 8, "model.attention.kernel_size": 12}


def test_a_trial_is_the_base_with_its_params(tune_spec: TuneSpec) -> None:
    spec = trial_spec(tune_spec, PARAMS)
    assert spec.loss.alpha_mseot == 2.5
    assert spec.model.coder.bottleneck == 8
    assert spec.model.attention.kernel_size == 12
    assert (spec.data, spec.seed) == (tune_spec.base.data, tune_spec.base.seed)
    assert spec.loss.alpha_region == tune_spec.base.loss.alpha_region
    assert params_in(spec, domains_of(tune_spec.space)) == PARAMS


def test_a_trial_has_a_checkpoint_at_each_evaluation(tune_spec: TuneSpec) -> None:
    schedule = trial_spec(tune_spec, PARAMS).schedule
    assert schedule.checkpoint_every == schedule.evaluate_every


def _write_nothing(folder: JobFolder) -> None:
    folder.trial(0).path.mkdir(parents=True)


def _write_stopped(folder: JobFolder) -> None:
    _evaluate(folder, 0, 1.0, 0.5)


def _write_whole(folder: JobFolder) -> None:
    _evaluate(folder, 0, 3.0, 0.5)


def _write_succeeded(folder: JobFolder) -> None:
    _evaluate(folder, 0, 2.9, 0.5)
    folder.trial(0).attempt(1).write_result(SUCCEEDED)


def _write_failed(folder: JobFolder) -> None:
    _evaluate(folder, 0, 1.0, 0.5)
    folder.trial(0).attempt(1).write_result(FAILED)


def _write_paused(folder: JobFolder) -> None:
    _evaluate(folder, 0, 1.0, 0.5)
    folder.trial(0).attempt(1).write_result(Result(outcome=Outcome.PAUSED))


@pytest.mark.parametrize(
    ("write", "state"),
    [
        (_write_nothing, "pending"),
        (_write_stopped, "pending"),
        (_write_whole, "succeeded"),
        (_write_succeeded, "succeeded"),
        (_write_failed, "failed"),
        (_write_paused, "pending"),
    ],
)
def test_how_a_trial_stands(
    folder: JobFolder, tune_spec: TuneSpec, write: Callable[[JobFolder], None], state: str
) -> None:
    write(folder)
    row = row_of(tune_spec, folder, 0, PARAMS)
    assert row.state == state
    assert row.params == PARAMS
    assert row.message == ("nan" if state == "failed" else None)


def test_a_trial_of_several_seeds_has_their_mean(folder: JobFolder, tune_spec: TuneSpec) -> None:
    spec = tune_spec.model_copy(update={"seeds": 3})
    own = folder.trial(0)
    for number, value in enumerate((0.2, 0.4, 0.6)):
        run = seed_folder(own, folder, number)
        metrics = {"val/mse": value, "val/objective": value, "val/epoch": 2.0}
        assert row_of(spec, folder, 0, PARAMS).state == "pending"
        run.attempt(1).add_metrics(8, metrics)
        run.attempt(1).write_result(SUCCEEDED)
    row = row_of(spec, folder, 0, PARAMS)
    assert row.state == "succeeded"
    assert row.metrics["val/objective"] == pytest.approx(0.4)
    assert row.standard_errors["val/objective"] == pytest.approx(0.2 / 3**0.5)
    seed_folder(own, folder, 2).attempt(1).write_result(FAILED)
    assert (row_of(spec, folder, 0, PARAMS).state, row_of(spec, folder, 0, PARAMS).message) == ("failed", "nan")


def test_an_evaluation_has_the_speed_of_the_training_before_it(folder: JobFolder) -> None:
    attempt = folder.trial(0).attempt(1)
    attempt.add_metrics(2, {"train/images_per_second": 50.0})
    attempt.add_metrics(4, {"val/mse": 0.5, "val/epoch": 1.0})
    attempt.add_metrics(6, {"train/images_per_second": 100.0})
    attempt.add_metrics(8, {"val/mse": 0.4, "val/epoch": 2.0})
    found = evaluations(folder.trial(0))
    assert [(epoch, one["val/mse"], one["train/seconds_per_image"]) for epoch, one in found.items()] == [
        (1.0, 0.5, 0.02),
        (2.0, 0.4, 0.01),
    ]


@pytest.mark.parametrize(
    ("metric", "best"), [(SelectionMetric.OBJECTIVE, 1), (SelectionMetric.MSE, 1), (SelectionMetric.FG_ARI, 2)]
)
def test_the_winner_is_the_best_that_has_a_model(tune_spec: TuneSpec, metric: SelectionMetric, best: int) -> None:
    scores = [("failed", 0.0, 1.0), ("stopped", 0.1, 0.5), ("succeeded", 0.2, 0.9), ("running", 0.01, 0.99)]
    rows = {
        trial: TrialRow.model_validate(
            {
                "trial": trial,
                "state": state,
                "params": {},
                "metrics": {"val/mse": error, "val/objective": error, "val/fg_ari": score},
            }
        )
        for trial, (state, error, score) in enumerate(scores)
    }
    found = winner(tune_spec.model_copy(update={"metric": metric}), rows)
    assert found is not None
    assert found.trial == best
    assert winner(tune_spec, {0: rows[0]}) is None


def _row(trial: int, mse: float, ari: float, **more: float) -> TrialRow:
    metrics = {"val/mse": mse, "val/objective": mse, "val/fg_ari": ari, **more}
    return TrialRow.model_validate({"trial": trial, "state": "succeeded", "params": {}, "metrics": metrics})


def test_a_front_has_what_none_beats_and_its_knee_is_between_its_ends(tune_spec: TuneSpec) -> None:
    spec = tune_spec.model_copy(update={"objectives": ("val/mse", "val/fg_ari")})
    scores = [(0.1, 0.2), (0.2, 0.8), (0.9, 0.9), (0.3, 0.7), (0.2, 0.8)]
    rows = {trial: _row(trial, *score) for trial, score in enumerate(scores)}
    found = front(spec, rows)
    assert [row.trial for row in found] == [0, 1, 4, 2]
    assert knee(spec, found).trial == 1
    assert knee(spec, found[:1]).trial == 0
    best = winner(spec, rows)
    assert best is not None
    assert best.trial == 1
    # A trial that lacks one of the objectives is on no front.
    del rows[1].metrics["val/fg_ari"]
    assert [row.trial for row in front(spec, rows)] == [0, 4, 2]


@pytest.mark.parametrize(
    ("constraints", "best"),
    [
        ([], 0),
        (["val/count_accuracy >= 0.95"], 1),
        (["val/count_accuracy >= 0.9", "val/mse <= 0.15"], 0),
        # None meets it: the best of all is better than nothing.
        (["val/count_accuracy >= 2"], 0),
        (["val/miou >= 0"], 0),
    ],
)
def test_constraints_come_before_the_objective(tune_spec: TuneSpec, constraints: list[str], best: int) -> None:
    spec = tune_spec.model_copy(update={"constraints": tuple(constraints)})
    rows = {0: _row(0, 0.1, 0.5, **{"val/count_accuracy": 0.9}), 1: _row(1, 0.2, 0.5, **{"val/count_accuracy": 0.95})}
    found = winner(spec, rows)
    assert found is not None
    assert found.trial == best
    assert is_feasible(spec, rows[1]) == (constraints in ([], ["val/count_accuracy >= 0.95"]))
