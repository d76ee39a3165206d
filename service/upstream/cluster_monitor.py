"""Cached, rate-limited view of the Ray cluster: every call of the control plane to it goes through here."""

import logging
import threading
from datetime import datetime, timedelta
from enum import StrEnum

from jobs.cluster.nodes import ClusterNode
from jobs.errors import LauncherUnavailable
from jobs.interfaces import Capacity, Launcher, ProcessState, Submission
from service.clock import Clock, is_over
from service.upstream.circuit_breaker import CircuitBreaker

__all__ = ["ClusterMonitor", "ClusterStatus"]

log = logging.getLogger(__name__)

_CAPACITY_HOLDS = timedelta(seconds=5)
"""Machines come and go slowly, and a thousand clients may ask at once."""

_NODES_HOLD = timedelta(seconds=2)
"""What runs where changes faster."""


class ClusterStatus(StrEnum):
    """What the cluster says about an attempt: evidence, never the verdict on the job."""

    ALIVE = "alive"
    """Pending or running."""
    ENDED = "ended"
    """It was there, and has ended, in whatever way."""
    GONE = "gone"
    """The cluster answers, and knows no such attempt or is not the one that was asked."""
    UNKNOWN = "unknown"
    """No answer, or not asked."""


class ClusterMonitor:
    """The cluster behind one circuit breaker. Has the methods of `jobs.interfaces.Launcher`, and three of its own.

    After a call that got no answer, every call raises LauncherUnavailable at once for a moment.

    Args:
        launcher: asked.
        clock: tells the time.
        rest: seconds without calls after one that got no answer.
    """

    def __init__(self, launcher: Launcher, clock: Clock, rest: float = 2.0) -> None:
        self._launcher = launcher
        self._clock = clock
        self._breaker = CircuitBreaker(LauncherUnavailable, clock, rest)
        self._lock = threading.Lock()
        self._capacity: tuple[datetime, Capacity] | None = None
        self._nodes_lock = threading.Lock()
        self._nodes: tuple[datetime, tuple[ClusterNode, ...]] | None = None

    def status(self, submission_id: str, cluster_id: str | None) -> ClusterStatus:
        """What the cluster says about an attempt that it was asked to run.

        Args:
            submission_id: names the attempt.
            cluster_id: the cluster that was asked; another one has never heard of it.
        """
        try:
            if cluster_id != self.cluster_id():
                return ClusterStatus.GONE
            state = self.state(submission_id)
        except LauncherUnavailable as error:
            log.info("nothing is known about %s: %s", submission_id, error)
            return ClusterStatus.UNKNOWN
        if state is None:
            return ClusterStatus.GONE
        return ClusterStatus.ENDED if state.is_terminal() else ClusterStatus.ALIVE

    def recent_capacity(self) -> Capacity:
        """What the cluster has; an answer a few seconds old will do. Raises: LauncherUnavailable."""
        # One asks, and those who came meanwhile get its answer.
        with self._lock:
            now = self._clock()
            if self._capacity is None or is_over(self._capacity[0] + _CAPACITY_HOLDS, now, _CAPACITY_HOLDS):
                self._capacity = (now, self.capacity())
            return self._capacity[1]

    def recent_nodes(self) -> tuple[ClusterNode, ...]:
        """The machines and what runs on them; an answer two seconds old will do. Raises: LauncherUnavailable."""
        with self._nodes_lock:
            now = self._clock()
            if self._nodes is None or is_over(self._nodes[0] + _NODES_HOLD, now, _NODES_HOLD):
                self._nodes = (now, self.nodes())
            return self._nodes[1]

    # --- `Launcher`, call by call

    def submit(self, submission: Submission) -> None:
        """See `Launcher.submit`."""
        self._breaker.call(lambda: self._launcher.submit(submission))

    def state(self, submission_id: str) -> ProcessState | None:
        """See `Launcher.state`."""
        return self._breaker.call(lambda: self._launcher.state(submission_id))

    def stop(self, submission_id: str) -> None:
        """See `Launcher.stop`."""
        self._breaker.call(lambda: self._launcher.stop(submission_id))

    def logs(self, submission_id: str) -> str:
        """See `Launcher.logs`."""
        return self._breaker.call(lambda: self._launcher.logs(submission_id))

    def capacity(self) -> Capacity:
        """See `Launcher.capacity`."""
        return self._breaker.call(self._launcher.capacity)

    def nodes(self) -> tuple[ClusterNode, ...]:
        """See `Launcher.nodes`."""
        return self._breaker.call(self._launcher.nodes)

    def cluster_id(self) -> str:
        """See `Launcher.cluster_id`."""
        return self._breaker.call(self._launcher.cluster_id)

    def live(self) -> set[str]:
        """See `Launcher.live`."""
        return self._breaker.call(self._launcher.live)
