"""Recovery of a run that has diverged: how far it goes back, and how often it may."""

from collections.abc import Iterable

from jobs.directory.records import MetricRow

__all__ = ["MOST_HALVINGS", "last_step_before_rise"]

MOST_HALVINGS = 2
"""So often the learning rate is halved; a run that diverges then, too, fails."""

_RISEN = 2.0
"""The loss has begun to rise where it stays above so many times its lowest value."""


def last_step_before_rise(rows: Iterable[MetricRow]) -> int:
    """The last reported step before the loss began the rise that has led to a number that is not finite.

    Args:
        rows: of the run, in their order.

    Returns:
        0 where none was reported.
    """
    losses = [(row.step, row.metrics["train/loss"]) for row in rows if "train/loss" in row.metrics]
    lowest = min((loss for _, loss in losses), default=0.0)
    return max((step for step, loss in losses if loss <= _RISEN * lowest), default=0)
