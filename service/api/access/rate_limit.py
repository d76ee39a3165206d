"""Token buckets that limit how often each owner, or each address, may ask."""

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["RateLimit"]

_MOST_KEYS = 10_000


class RateLimit:
    """A token bucket for each key. Used in the event loop alone.

    Args:
        rate: requests a second in the long run; 0: no limit.
        burst: requests at once, by who has not asked for a while.
        clock: in seconds.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def has_room(self, key: str) -> bool:
        """Whether one more request would be within the limit; it is not counted."""
        return self._rate == 0 or self._level(key) >= 1

    def take(self, key: str) -> bool:
        """Counts a request, and says whether it is within the limit."""
        if self._rate == 0:
            return True
        level = self._level(key)
        granted = level >= 1
        self._buckets[key] = (level - 1 if granted else level, self._clock())
        self._buckets.move_to_end(key)
        if len(self._buckets) > _MOST_KEYS:
            # Whoever asked longest ago has the fullest bucket, so forgetting it gives away least.
            self._buckets.popitem(last=False)
        return granted

    def _level(self, key: str) -> float:
        level, at = self._buckets.get(key, (self._burst, self._clock()))
        return min(self._burst, level + (self._clock() - at) * self._rate)
