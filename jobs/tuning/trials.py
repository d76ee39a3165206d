"""Trials of a search as data: their specs, their evaluations, their states, and the winner. No cluster, no training."""

from collections.abc import Iterable, Mapping
from statistics import fmean, stdev

from jobs.directory.layout import JobFolder
from jobs.directory.records import Failure, Outcome, Result, TrialRow, TrialState
from jobs.errors import ErrorClass
from jobs.search.settings import SECONDS_PER_IMAGE
from jobs.search.space import Domain, Params, with_params
from jobs.specs import SelectionMetric, TrainSpec, TuneSpec

__all__ = [
    "Evaluated",
    "evaluations",
    "failure_of",
    "front",
    "is_bad",
    "is_feasible",
    "knee",
    "params_in",
    "row_of",
    "seed_folder",
    "trial_spec",
    "winner",
]

Evaluated = dict[str, float]
"""Metrics of one evaluation, by name."""


def trial_spec(spec: TuneSpec, params: Params) -> TrainSpec:
    """The training run of a trial. It makes a checkpoint at each evaluation, since it may be stopped at any.

    Raises:
        ValidationError: the config refuses the parameters beside each other.
    """
    fields = with_params(spec.base.model_dump(mode="json"), params)
    fields["schedule"] = {**fields["schedule"], "checkpoint_every": fields["schedule"]["evaluate_every"]}
    return TrainSpec.model_validate(fields)


def params_in(spec: TrainSpec, domains: Mapping[str, Domain]) -> Params:
    """What a trial's spec has in the fields that its search varies."""
    fields = spec.model_dump(mode="json")
    found: Params = {}
    for path in domains:
        part: object = fields
        for name in path.split("."):
            part = part.get(name) if isinstance(part, dict) else None
        if isinstance(part, bool | int | float | str):
            found[path] = part
    return found


def seed_folder(trial: JobFolder, search: JobFolder, number: int) -> JobFolder:
    """Folder of a trial's training with one of its seeds; the first one's is the trial's own.

    Args:
        trial: the trial's folder.
        search: the search's, whose control.json counts.
        number: of the seed, from 0.
    """
    return trial if number == 0 else JobFolder(trial.path / "seeds" / str(number), control=search.path)


def evaluations(folder: JobFolder) -> dict[float, Evaluated]:
    """Metrics of each evaluation on `val` of a training run, by epoch, in order."""
    found: dict[float, Evaluated] = {}
    speed: float | None = None
    for row in folder.history():
        speed = row.metrics.get("train/images_per_second", speed)
        if SelectionMetric.MSE.row_name in row.metrics:
            rate = {SECONDS_PER_IMAGE: 1 / speed} if speed else {}
            found[row.metrics.get("val/epoch", 0.0)] = {**row.metrics, **rate}
    return found


def row_of(spec: TuneSpec, folder: JobFolder, trial: int, params: Params) -> TrialRow:
    """Row of a trial that does not run, read from its folder: SUCCEEDED, FAILED, or PENDING.

    Args:
        spec: the search.
        folder: the search's.
        trial: its number.
        params: its parameters.
    """
    own = folder.trial(trial)
    runs = [seed_folder(own, folder, number) for number in range(spec.seeds)]
    last = [list(evaluations(run).items())[-1:] for run in runs]
    metrics, errors = _mean([evaluated for items in last for _, evaluated in items])
    epoch = last[0][0][0] if last[0] else 0.0
    failed = failure_of(runs)
    if failed is not None:
        state = TrialState.FAILED
    else:
        is_whole = all(
            _has_ended(run, spec, items[0][0] if items else 0.0) for run, items in zip(runs, last, strict=True)
        )
        state = TrialState.SUCCEEDED if is_whole else TrialState.PENDING
    return TrialRow(
        trial=trial,
        state=state,
        params=params,
        metrics=metrics,
        standard_errors=errors,
        epoch=epoch,
        message=None if failed is None else failed.message,
    )


def failure_of(runs: Iterable[JobFolder]) -> Failure | None:
    """The error with which a training run of a trial has failed, if one did."""
    ends = [result for run in runs for result in _results(run)]
    failed = next((result for result in ends if result.outcome is Outcome.FAILED), None)
    if failed is None:
        return None
    return failed.error or Failure(error_class=ErrorClass.INTERNAL, message="it failed and gave no reason")


def is_bad(failure: Failure | None) -> bool:
    """Whether a failure is the doing of a trial's parameters, rather than of code, data or cluster."""
    return failure is not None and failure.error_class in (ErrorClass.DIVERGED, ErrorClass.OUT_OF_MEMORY)


def _results(run: JobFolder) -> list[Result]:
    return [result for one in run.attempts() if (result := one.read_result()) is not None]


def _has_ended(run: JobFolder, spec: TuneSpec, epoch: float) -> bool:
    """Whether a run came to its end; the search may have ended it at its last evaluation, before it could say so."""
    if epoch >= spec.base.schedule.epochs:
        return True
    return any(result.outcome is Outcome.SUCCEEDED for result in _results(run))


def _mean(seeds: list[Evaluated]) -> tuple[Evaluated, Evaluated]:
    """Means over the seeds of the metrics that all have, and their standard errors where there are several."""
    if not seeds:
        return {}, {}
    names = [name for name in seeds[0] if all(name in one for one in seeds)]
    means = {name: fmean(one[name] for one in seeds) for name in names}
    if len(seeds) == 1:
        return means, {}
    return means, {name: stdev([one[name] for one in seeds]) / len(seeds) ** 0.5 for name in names}


def is_feasible(spec: TuneSpec, row: TrialRow) -> bool:
    """Whether a trial meets all constraints; a metric that is missing meets none."""
    for metric, is_upper, bound in spec.bounds.values():
        value = row.metrics.get(metric)
        if value is None or (value > bound if is_upper else value < bound):
            return False
    return True


def winner(spec: TuneSpec, rows: Mapping[int, TrialRow]) -> TrialRow | None:
    """The trial whose model is the search's result, whether it trained to the end or was stopped.

    Of those that meet the constraints, if any does: the one with the best newest value, or the knee of the front.
    """
    best = front(spec, rows)
    return knee(spec, best) if best else None


def front(spec: TuneSpec, rows: Mapping[int, TrialRow]) -> list[TrialRow]:
    """The trials that none beats in all objectives, by the first objective; with one objective the best one."""
    usable = [row for row in rows.values() if row.state.has_model and all(name in row.metrics for name in spec.goals)]
    candidates = [row for row in usable if is_feasible(spec, row)] or usable
    costs = {row.trial: _costs(spec, row) for row in candidates}
    ranked = sorted(candidates, key=lambda row: (costs[row.trial], row.trial))
    if len(spec.goals) == 1:
        return ranked[:1]
    return [row for row in ranked if not any(_dominates(other, costs[row.trial]) for other in costs.values())]


def knee(spec: TuneSpec, best: list[TrialRow]) -> TrialRow:
    """The point of a front that is nearest to the best of all objectives, each measured by its range on the front."""
    costs = [_costs(spec, row) for row in best]
    lows, highs = ([bound(values) for values in zip(*costs, strict=True)] for bound in (min, max))

    def distance(cost: tuple[float, ...]) -> float:
        shares = [
            (value - low) / (high - low) if high > low else 0.0
            for value, low, high in zip(cost, lows, highs, strict=True)
        ]
        return sum(share**2 for share in shares)

    return best[min(range(len(best)), key=lambda at: distance(costs[at]))]


def _costs(spec: TuneSpec, row: TrialRow) -> tuple[float, ...]:
    """The objectives, each so that lower is better."""
    return tuple(-row.metrics[name] if higher else row.metrics[name] for name, higher in spec.goals.items())


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
