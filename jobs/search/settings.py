"""Settings of a search beside its space: sampler, scheduler, objectives, constraints, retraining of the winner."""

import re
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from seqae.config import Config

__all__ = [
    "HUMAN_SCORE",
    "SECONDS_PER_IMAGE",
    "Constraint",
    "Goal",
    "Judge",
    "Objective",
    "Retrain",
    "Sampler",
    "Scheduler",
    "goal_of",
    "parse_constraint",
]

SECONDS_PER_IMAGE = "train/seconds_per_image"
"""Seconds that training took for an image, over all workers, as last reported: 1 / `train/images_per_second`."""


HUMAN_SCORE = "human/score"
"""What people's comparisons say of a trial: its score in the Bradley-Terry model, higher is better."""


class Judge(StrEnum):
    """What says how good a trial is."""

    METRICS = "metrics"
    """Its metrics on `val`."""
    HUMAN = "human"
    """People, who compare film strips of two trials."""


class Sampler(StrEnum):
    """What proposes the parameters of the next trial."""

    TPE = "tpe"
    """Tree-structured Parzen estimator over all parameters together: looks where good trials were."""
    RANDOM = "random"
    """Draws at random."""
    GRID = "grid"
    """Takes all combinations in turn; see `grid_points`."""
    CMA_ES = "cma-es"
    """Covariance matrix adaptation, for numbers; choices are drawn at random."""
    NSGA_II = "nsga-ii"
    """Genetic algorithm for several objectives."""


class Scheduler(StrEnum):
    """What stops a trial before its end, by its evaluations and those of the others."""

    ASHA = "asha"
    """Asynchronous successive halving: one in `reduction_factor` goes on at each rung."""
    MEDIAN = "median"
    """A trial stops whose best evaluation is worse than the median of the others at the same epoch."""
    HYPERBAND = "hyperband"
    """Several brackets of successive halving, which stop later or earlier."""
    PBT = "pbt"
    """Population based training: the worst stop, and copies of the best go on with other values."""
    NONE = "none"
    """Every trial trains to the end."""


class Goal(StrEnum):
    """Direction of an objective."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"


_GOALS = {
    "val/objective": Goal.MINIMIZE,
    "val/mse": Goal.MINIMIZE,
    "val/fg_ari": Goal.MAXIMIZE,
    "val/miou": Goal.MAXIMIZE,
    "val/count_accuracy": Goal.MAXIMIZE,
    "val/purity": Goal.MAXIMIZE,
    "val/completeness": Goal.MAXIMIZE,
    SECONDS_PER_IMAGE: Goal.MINIMIZE,
}
"""Metrics that a search may improve or bound."""


def goal_of(metric: str) -> Goal:
    """Whether a metric is better low or high. Raises: KeyError."""
    return _GOALS[metric]


def _check_metric(name: str) -> str:
    if name not in _GOALS:
        raise ValueError(f"must be one of {', '.join(_GOALS)}")
    return name


Objective = Annotated[str, Field(max_length=100), AfterValidator(_check_metric)]
"""Name of a metric that a search improves; `goal_of` says in which direction."""

_CONSTRAINT = re.compile(r"\s*([a-z_/]+)\s*(<=|>=)\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*", re.IGNORECASE)


def parse_constraint(text: str) -> tuple[str, bool, float]:
    """Metric of a constraint, whether the bound is an upper one, and the bound.

    Raises:
        ValueError: it is not `METRIC <= NUMBER` or `METRIC >= NUMBER`.
    """
    found = _CONSTRAINT.fullmatch(text)
    if found is None:
        raise ValueError("must be METRIC <= NUMBER or METRIC >= NUMBER, such as val/count_accuracy >= 0.95")
    return _check_metric(found[1]), found[2] == "<=", float(found[3])


def _check_constraint(text: str) -> str:
    parse_constraint(text)
    return text


Constraint = Annotated[str, Field(max_length=200), AfterValidator(_check_constraint)]
"""Bound on a metric, such as `val/count_accuracy >= 0.95`."""


class Retrain(Config):
    """Training of the winner's settings once more, from the start, as the search's result."""

    epochs: float = Field(ge=1e-6, le=100_000)
    """Passes over the training images."""

    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    """Of weights and data order; the base's when left out."""
