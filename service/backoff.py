"""Exponential backoff with jitter: how long to wait before trying again."""

import random

__all__ = ["exponential_backoff"]

_LARGEST_EXPONENT = 1000
"""2.0 to a larger power than 1023 raises OverflowError."""


def exponential_backoff(failures: int, first: float, longest: float, jitter: float = 0.0) -> float:
    """The wait before the next try: `first` after one failure, doubled by each further one, `longest` at most.

    Args:
        failures: how many tries in a row have failed, at least 1.
        first: the wait after one failure, in seconds.
        longest: the limit of the wait, in seconds, before the jitter.
        jitter: the result is spread evenly by this share to each side, 0.25 from 75 % to 125 %, so that what failed
            together doesn't come back together. A share of 0 makes the result exact.

    Returns:
        Seconds.

    Raises:
        ValueError: nothing has failed yet, or the jitter is not in 0..1.
    """
    if failures < 1:
        raise ValueError(f"a wait follows at least one failure, not {failures}")
    if not 0 <= jitter <= 1:
        raise ValueError(f"the jitter is a share in 0..1, not {jitter:g}")
    wait = min(first * 2.0 ** min(failures - 1, _LARGEST_EXPONENT), longest)
    return wait * random.uniform(1 - jitter, 1 + jitter)
