"""Trials of a search as data: their parameters, their states, and the winner. No cluster, no training."""

from typing import Any

import numpy as np

from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome, TrialRow, TrialState
from jobs.specs import FloatRange, SelectionMetric, TrainSpec, TuneSpec, varied_fields

__all__ = ["params_of", "row_of", "trial_spec", "winner"]


def params_of(spec: TuneSpec, trial: int) -> dict[str, int | float]:
    """Parameters of a trial by the dotted name of the field: a function of the search's seed and the trial's number.

    Drawn here rather than by Tune, so that a search that is taken up again goes on with the same trials.
    """
    rng = np.random.default_rng((spec.seed, trial))
    drawn: dict[str, int | float] = {}
    for name, values in varied_fields(spec.space).items():
        if isinstance(values, FloatRange):
            drawn[name] = float(np.exp(rng.uniform(np.log(values.low), np.log(values.high))))
        else:
            drawn[name] = int(rng.choice(values))
    return drawn


def trial_spec(spec: TuneSpec, trial: int) -> TrainSpec:
    """The training run of a trial. It makes a checkpoint at each evaluation, since ASHA may stop it at any."""
    fields: dict[str, Any] = spec.base.model_dump(mode="json")
    for name, value in params_of(spec, trial).items():
        *path, last = name.split(".")
        part = fields
        for key in path:
            part = part[key]
        part[last] = value
    fields["schedule"]["checkpoint_every"] = fields["schedule"]["evaluate_every"]
    return TrainSpec.model_validate(fields)


def row_of(spec: TuneSpec, folder: JobFolder, trial: int, attempt: int) -> TrialRow:
    """Row of a trial that does not run, read from its folder.

    Args:
        spec: the search.
        folder: the search's.
        trial: its number.
        attempt: the search's attempt. A trial that it paused waits; one that has reported but not ended was stopped.
    """
    own = folder.trial(trial)
    metrics: dict[str, float] = {}
    for row in own.history():
        if SelectionMetric.MSE.row_name in row.metrics:
            metrics = row.metrics
    epoch = metrics.get("val/epoch", 0.0)
    ends = [result for one in own.attempts() if (result := one.read_result())]
    now = own.attempt(attempt).read_result()
    failed = next((result for result in ends if result.outcome is Outcome.FAILED), None)
    if failed is not None:
        state = TrialState.FAILED
    # ASHA ends a trial at its last evaluation, before it can write its result.
    elif any(result.outcome is Outcome.SUCCEEDED for result in ends) or epoch >= spec.base.schedule.epochs:
        state = TrialState.SUCCEEDED
    else:
        state = TrialState.STOPPED if metrics and now is None else TrialState.PENDING
    message = failed.error.message if failed and failed.error else None
    return TrialRow(
        trial=trial, state=state, params=params_of(spec, trial), metrics=metrics, epoch=epoch, message=message
    )


def winner(spec: TuneSpec, rows: dict[int, TrialRow]) -> TrialRow | None:
    """The trial with the best newest value of the search's metric, whether it trained to the end or was stopped."""
    name = spec.metric.row_name
    best: TrialRow | None = None
    for row in rows.values():
        usable = row.state.has_model and name in row.metrics
        if usable and (best is None or spec.metric.is_better(row.metrics[name], best.metrics[name])):
            best = row
    return best
