"""The clock of the control plane: handed to everything that tells the time, so that tests can set it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

__all__ = ["CLOCK_SKEW", "Clock", "is_over", "utc_now"]

Clock = Callable[[], datetime]
"""Tells the time, in UTC, with its zone."""


CLOCK_SKEW = timedelta(seconds=60)
"""How far the clocks of machines that share a database may be apart."""


def is_over(end: datetime, now: datetime, longest: timedelta) -> bool:
    """Whether a wait has ended. One that would last longer than any wait can has: the clock was set back meanwhile.

    Args:
        end: of the wait.
        now: the time.
        longest: that such a wait can last.
    """
    return not now < end <= now + longest


def utc_now() -> datetime:
    """The time of this machine, in UTC."""
    return datetime.now(UTC)
