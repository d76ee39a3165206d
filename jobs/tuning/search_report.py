"""Report of a search: which parameters matter, what the winner has that the others have not, and the figures of it."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from statistics import median

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState as OptunaState

from jobs.directory.layout import AttemptFolder
from jobs.directory.records import NoteKind, SearchReport, TrialRow, TrialState
from jobs.search.space import Scalar, domains_of
from jobs.specs import TuneSpec
from jobs.tuning.distributions import distributions, fitting
from jobs.tuning.journal import step_of
from jobs.tuning.search_figures import write_figures
from jobs.tuning.study import SearchStudy
from jobs.tuning.trials import front, is_feasible

__all__ = ["explain", "importances", "search_report", "write_search_report"]

logger = logging.getLogger(__name__)

_FEWEST = 4
"""Trials below which nothing is said of parameters."""

_REASONS = 3
"""So many failures are told of one by one."""

_TOLD = 4
"""At most so many parameters are told of."""


def write_search_report(
    attempt: AttemptFolder, spec: TuneSpec, rows: Mapping[int, TrialRow], best: TrialRow, study: SearchStudy
) -> None:
    """Writes search.json and the figures. A figure that can't be made is left out, with a note.

    Args:
        attempt: of the search, whose trials are all over.
        spec: the search.
        rows: its trials.
        best: the winner.
        study: what Optuna knows of the trials.
    """
    compared = comparable(spec, rows, study)
    attempt.write_search_report(search_report(spec, rows, best, compared))
    for name, error in write_figures(attempt, spec, rows, compared).items():
        attempt.add_note(NoteKind.FIGURE_LEFT_OUT, f"{name}: {error}")


def search_report(spec: TuneSpec, rows: Mapping[int, TrialRow], best: TrialRow, compared: optuna.Study) -> SearchReport:
    """The report of a search that has ended.

    Args:
        spec: the search.
        rows: its trials.
        best: the winner.
        compared: as `comparable` gives it.
    """
    shares = importances(compared)
    return SearchReport(
        best_trial=best.trial,
        front=[row.trial for row in front(spec, rows)],
        importances=shares,
        why=explain(spec, rows, best, shares, compared),
        retrained=spec.retrain is not None,
    )


def comparable(spec: TuneSpec, rows: Mapping[int, TrialRow], study: SearchStudy) -> optuna.Study:
    """A study in memory of trials with one budget: each with its value at the last epoch that all of them have reached.

    Trials that were stopped early would else look worse than they are. With several objectives, or people as the
    objective, which stop none, it has all of them, as they were in the end.
    """
    domains = domains_of(spec.space)
    usable = {trial: row for trial, row in rows.items() if row.metrics and row.state.has_model}
    at_the_end = len(spec.goals) > 1 or spec.is_by_eye
    curves = {} if at_the_end else {trial: study.curve(trial) for trial in usable}
    common = min((max(curve) for curve in curves.values() if curve), default=0)
    made = optuna.create_study(
        directions=[
            optuna.study.StudyDirection.MAXIMIZE if up else optuna.study.StudyDirection.MINIMIZE
            for up in spec.goals.values()
        ]
    )
    for trial, row in usable.items():
        params = fitting(row.params, domains)
        if at_the_end:
            values = [row.metrics[name] for name in spec.goals if name in row.metrics]
        else:
            reached = [step for step in curves[trial] if step <= common]
            values = [curves[trial][max(reached)]] if reached else []
        if len(values) == len(spec.goals):
            made.add_trial(
                optuna.trial.create_trial(
                    state=OptunaState.COMPLETE,
                    values=values,
                    params=dict(params),
                    distributions=distributions(params, domains),
                    user_attrs={"trial": trial, "epoch": common / step_of(1)},
                )
            )
    return made


def importances(compared: optuna.Study) -> dict[str, float]:
    """Share of the differences that each parameter explains, by fANOVA; empty where there is too little to say."""
    trials = compared.get_trials(deepcopy=False)
    if len(trials) < _FEWEST:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = get_param_importances(
                compared,
                evaluator=FanovaImportanceEvaluator(seed=0),
                target=lambda trial: float(trial.values[0]),
            )
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        logger.warning("nothing is known of the parameters' importance: %s", error)
        return {}
    return {name: float(share) for name, share in found.items() if share == share}


def explain(
    spec: TuneSpec,
    rows: Mapping[int, TrialRow],
    best: TrialRow,
    shares: Mapping[str, float],
    compared: optuna.Study,
) -> list[str]:
    """Sentences on the winner: how far it is ahead, and by which parameters."""
    return [*_standing(spec, rows, best), *_parameters(spec, best, shares, compared)]


def _standing(spec: TuneSpec, rows: Mapping[int, TrialRow], best: TrialRow) -> list[str]:
    states = [row.state for row in rows.values()]
    told = []
    goals = ", ".join(f"{name} {_number(best.metrics[name])}" for name in spec.goals if name in best.metrics)
    error = "".join(f" +- {best.standard_errors[name]:.2g}" for name in spec.goals if name in best.standard_errors)
    place = "is the knee of the front" if len(spec.goals) > 1 else "is the best"
    told.append(f"Trial {best.trial} of {len(rows)} {place}: {goals}{error}.")
    if spec.is_by_eye:
        told.append(f"People chose it, in {spec.most_comparisons} comparisons of film strips at most.")
    (metric, *others) = spec.goals
    succeeded = [row for row in rows.values() if row.state is TrialState.SUCCEEDED]
    whole = [row.metrics[metric] for row in succeeded if metric in row.metrics]
    if len(whole) > 1 and not others and not spec.is_by_eye:
        told.append(f"The median of the {len(whole)} trials that trained to the end is {_number(median(whole))}.")
    stopped = states.count(TrialState.STOPPED)
    failed = [row for row in rows.values() if row.state is TrialState.FAILED]
    if stopped:
        told.append(f"{stopped} were stopped early by {spec.stops_by.value}.")
    reasons = [f"Trial {row.trial} failed: {str(row.message)[:200]}." for row in failed]
    told += reasons if len(reasons) <= _REASONS else [f"{len(reasons)} failed."]
    if spec.bounds and not is_feasible(spec, best):
        told.append("No trial meets all constraints.")
    if best.state is TrialState.STOPPED:
        told.append("It was itself stopped early: with a larger budget another one may win.")
    return told


def _parameters(spec: TuneSpec, best: TrialRow, shares: Mapping[str, float], compared: optuna.Study) -> list[str]:
    trials = compared.get_trials(deepcopy=False)
    if len(trials) < _FEWEST or not shares:
        return ["There are too few trials to say by which parameters."]
    higher = next(iter(spec.goals.values()))
    ranked = sorted(trials, key=lambda trial: trial.values[0], reverse=higher)
    quarter = max(2, len(ranked) // 4)
    told = []
    if len(spec.goals) == 1 and not spec.is_by_eye:
        told.append(f"Compared at epoch {trials[0].user_attrs['epoch']:.3g}, which all {len(trials)} reached:")
    for name, share in list(shares.items())[:_TOLD]:
        if name not in best.params:
            continue
        top = [trial.params[name] for trial in ranked[:quarter] if name in trial.params]
        rest = [trial.params[name] for trial in ranked[quarter:] if name in trial.params]
        told.append(
            f"{name} = {_number(best.params[name])} explains {share:.0%} of the differences; the best quarter has "
            f"{_span(top)}, the others {_span(rest)}."
        )
    if trials and max(shares.values()) < 0.2:
        told.append("No parameter stands out.")
    return told


def _span(values: Sequence[Scalar]) -> str:
    """Values in words: from the lowest to the highest, or the choices by how often they occur."""
    if not values:
        return "no value"
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values):
        return f"{_number(min(numbers))} to {_number(max(numbers))} (median {_number(median(numbers))})"
    often = sorted(set(values), key=lambda value: (-values.count(value), str(value)))
    return ", ".join(f"{value} ({values.count(value)})" for value in often)


def _number(value: Scalar) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
