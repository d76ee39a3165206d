"""A search's trials as data, in folders that the test writes as trials would."""

from collections.abc import Callable

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Failure, Outcome, Result, TrialRow
from jobs.errors import ErrorClass
from jobs.specs import SelectionMetric, TuneSpec
from jobs.tuning.trials import params_of, row_of, trial_spec, winner

SUCCEEDED = Result(outcome=Outcome.SUCCEEDED)
FAILED = Result(outcome=Outcome.FAILED, error=Failure(error_class=ErrorClass.DIVERGED, message="nan"))


def _evaluate(folder: JobFolder, trial: int, epoch: float, error: float, attempt: int = 1) -> None:
    metrics = {"val/mse": error, "val/objective": error, "val/fg_ari": 1 - error, "val/epoch": epoch}
    folder.trial(trial).attempt(attempt).add_metrics(int(4 * epoch), metrics)


def test_params_depend_on_seed_and_number_alone(tune_spec: TuneSpec) -> None:
    assert params_of(tune_spec, 2) == params_of(tune_spec, 2)
    assert params_of(tune_spec, 2) != params_of(tune_spec, 1)
    assert params_of(tune_spec.model_copy(update={"seed": 1}), 2) != params_of(tune_spec, 2)
    assert params_of(tune_spec.model_copy(update={"trials": 50}), 2) == params_of(tune_spec, 2)


def test_params_lie_in_the_space_and_reach_its_parts(tune_spec: TuneSpec) -> None:
    drawn = [params_of(tune_spec, trial) for trial in range(200)]
    assert {tuple(params) for params in drawn} == {
        ("loss.alpha_mseot", "model.coder.bottleneck", "model.attention.kernel_size")
    }
    assert {params["model.coder.bottleneck"] for params in drawn} == {4, 8}
    assert {params["model.attention.kernel_size"] for params in drawn} == {8, 12}
    alphas = [params["loss.alpha_mseot"] for params in drawn]
    assert all(0.1 <= alpha <= 10 for alpha in alphas)
    # On a logarithmic scale half of them are below 1.
    assert 70 <= sum(alpha < 1 for alpha in alphas) <= 130


def test_a_trial_is_the_base_with_its_params(tune_spec: TuneSpec) -> None:
    spec, params = trial_spec(tune_spec, 1), params_of(tune_spec, 1)
    assert spec.loss.alpha_mseot == params["loss.alpha_mseot"]
    assert spec.model.coder.bottleneck == params["model.coder.bottleneck"]
    assert spec.model.attention.kernel_size == params["model.attention.kernel_size"]
    assert (spec.data, spec.seed) == (tune_spec.base.data, tune_spec.base.seed)
    assert spec.loss.alpha_region == tune_spec.base.loss.alpha_region


def test_a_trial_has_a_checkpoint_at_each_evaluation(tune_spec: TuneSpec) -> None:
    schedule = trial_spec(tune_spec, 0).schedule
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
        (_write_stopped, "stopped"),
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
    row = row_of(tune_spec, folder, 0, attempt=1)
    assert row.state == state
    assert row.params == params_of(tune_spec, 0)
    assert row.message == ("nan" if state == "failed" else None)


def test_a_trial_that_was_paused_before_and_is_stopped_now_is_stopped(folder: JobFolder, tune_spec: TuneSpec) -> None:
    _write_paused(folder)
    _evaluate(folder, 0, 2.0, 0.4, attempt=2)
    assert row_of(tune_spec, folder, 0, attempt=2).state == "stopped"


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
