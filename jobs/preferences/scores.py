"""Scores of trials from people's answers: the Bradley-Terry model, and a search's rows with them.

Bradley and Terry (1952): trial i is found better than j with probability 1 / (1 + exp(s_j - s_i)). The scores s are the
most probable ones if each is normal around 0 with a standard deviation of 1 before anybody has answered, so a trial
that won once against nobody of note is not infinitely good. Equally good counts as half an answer either way.
"""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from jobs.directory.layout import JobFolder
from jobs.directory.records import TrialRow
from jobs.preferences.answers import Answer, read_answers
from jobs.search.settings import HUMAN_SCORE
from jobs.specs import TuneSpec

__all__ = ["bradley_terry", "scored", "with_scores"]

Floats = NDArray[np.float64]


def bradley_terry(trials: Collection[int], answers: Iterable[Answer]) -> dict[int, float]:
    """The score of each trial; 0 of one that was not compared.

    Args:
        trials: by number.
        answers: those about other trials are left out.
    """
    # Here: nobody else of the control plane needs it.
    from scipy.optimize import minimize

    places = {trial: place for place, trial in enumerate(sorted(trials))}
    better: list[int] = []
    worse: list[int] = []
    weights: list[float] = []
    for answer in answers:
        one, other = answer.trials
        if one not in places or other not in places:
            continue
        for winner, loser in ((one, other), (other, one)):
            if answer.better in (None, winner):
                better.append(places[winner])
                worse.append(places[loser])
                weights.append(0.5 if answer.better is None else 1.0)
    if not weights:
        return dict.fromkeys(places, 0.0)
    first, second, weight = np.array(better), np.array(worse), np.array(weights)

    def cost(scores: Floats) -> tuple[float, Floats]:
        ahead = scores[first] - scores[second]
        slope = -weight / (1 + np.exp(ahead))
        gradient = scores.copy()
        np.add.at(gradient, first, slope)
        np.add.at(gradient, second, -slope)
        return float(weight @ np.logaddexp(0, -ahead) + scores @ scores / 2), gradient

    found = minimize(cost, np.zeros(len(places)), jac=True, method="L-BFGS-B", options={"gtol": 1e-8, "ftol": 1e-14})
    return {trial: round(float(found.x[place]), 6) for trial, place in places.items()}


def scored(spec: TuneSpec, folder: JobFolder, rows: Mapping[int, TrialRow]) -> dict[int, TrialRow]:
    """Rows of a search with the scores that its answers give; those of any other search as they are.

    Args:
        spec: the search.
        folder: the search's.
        rows: its trials.
    """
    return with_scores(rows, read_answers(folder)) if spec.is_by_eye else dict(rows)


def with_scores(rows: Mapping[int, TrialRow], answers: Mapping[int, Answer]) -> dict[int, TrialRow]:
    """Rows with a score for each trial that was compared, or is the only one that has a model.

    Args:
        rows: the trials of a search by eye.
        answers: to pairs of them.
    """
    usable = [trial for trial, row in rows.items() if row.state.has_model]
    compared = {trial for answer in answers.values() for trial in answer.trials} if len(usable) > 1 else set(usable)
    scores = bradley_terry(usable, answers.values())
    return {
        trial: _with_score(row, scores[trial] if trial in compared and trial in scores else None)
        for trial, row in rows.items()
    }


def _with_score(row: TrialRow, score: float | None) -> TrialRow:
    metrics = {name: value for name, value in row.metrics.items() if name != HUMAN_SCORE}
    return row.model_copy(update={"metrics": metrics if score is None else {**metrics, HUMAN_SCORE: score}})
