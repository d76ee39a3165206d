"""The cluster, asked with restraint."""

import logging
import threading
from datetime import datetime, timedelta
from enum import StrEnum

from jobs.errors import LauncherUnavailable
from jobs.interfaces import Capacity, Launcher
from service.db.models import AttemptRow
from service.db.store import Clock
from service.upstream.circuit_breaker import CircuitBreaker

__all__ = ["ClusterMonitor", "ClusterStatus"]

log = logging.getLogger(__name__)

_CAPACITY_HOLDS = timedelta(seconds=5)
"""Machines come and go slowly, and a thousand clients may ask at once."""


class ClusterStatus(StrEnum):
    """The cluster's word on an attempt."""

    ALIVE = "alive"
    """Pending or running."""
    ENDED = "ended"
    """It was there, and has ended, in whatever way."""
    GONE = "gone"
    """The cluster answers, and knows no such attempt or is not the one that was asked."""
    UNKNOWN = "unknown"
    """No answer, or not asked."""


class ClusterMonitor:
    """What the control plane wants to know of the cluster.

    Args:
        launcher: asked.
        clock: tells the time.
        rest: seconds without calls after one that got no answer.
    """

    def __init__(self, launcher: Launcher, clock: Clock, rest: float = 2.0) -> None:
        self.launcher = launcher
        self._clock = clock
        self._breaker = CircuitBreaker(LauncherUnavailable, clock, rest)
        self._lock = threading.Lock()
        self._capacity: tuple[datetime, Capacity] | None = None

    def word(self, attempt: AttemptRow) -> ClusterStatus:
        """What the cluster says about an attempt that it was asked to run."""
        try:
            return self._breaker.call(lambda: self._ask(attempt))
        except LauncherUnavailable as error:
            log.info("nothing is known about %s: %s", attempt.submission_id, error)
            return ClusterStatus.UNKNOWN

    def capacity(self) -> Capacity:
        """What the cluster has; an answer a few seconds old will do. Raises: LauncherUnavailable."""
        # One asks, and those who came meanwhile get its answer.
        with self._lock:
            now = self._clock()
            if self._capacity is None or now - self._capacity[0] >= _CAPACITY_HOLDS:
                self._capacity = (now, self._breaker.call(self.launcher.capacity))
            return self._capacity[1]

    def _ask(self, attempt: AttemptRow) -> ClusterStatus:
        if attempt.cluster_id != self.launcher.cluster_id():
            return ClusterStatus.GONE
        state = self.launcher.state(attempt.submission_id)
        if state is None:
            return ClusterStatus.GONE
        return ClusterStatus.ENDED if state.is_terminal() else ClusterStatus.ALIVE
