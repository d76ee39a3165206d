"""Places of queued jobs, as clients see them: worked out again when they are asked for, and kept for a moment."""

import threading
from datetime import datetime, timedelta

from jobs.errors import LauncherUnavailable
from service.clock import is_over
from service.db.models import JobRow, WaitingFor
from service.db.store import Store
from service.job_state import State
from service.scheduling.admission import Place, plan
from service.schemas.jobs import WaitingView
from service.settings import ReconcilerSettings
from service.upstream.cluster_monitor import ClusterMonitor

__all__ = ["QueuePlaces"]

_HOLDS = timedelta(seconds=2)
"""A place that is so old will do: whoever follows a job asks every second."""


class QueuePlaces:
    """Places in the queue.

    Args:
        store: the job database.
        cluster: asked for its size, which may be a few seconds old.
        settings: limits of the queue.
    """

    def __init__(self, store: Store, cluster: ClusterMonitor, settings: ReconcilerSettings) -> None:
        self._store = store
        self._cluster = cluster
        self._settings = settings
        self._lock = threading.Lock()
        self._known: tuple[datetime, dict[str, Place]] | None = None

    def waiting(self, job: JobRow) -> WaitingView | None:
        """What a job waits for in the queue; None for jobs in other states, and while the cluster does not answer."""
        if job.state is not State.QUEUED:
            return None
        place = self._places().get(job.id)
        if place is None:
            return None
        return WaitingView(
            reason=WaitingFor.PLACE,
            missing=place.missing,
            since=job.queued_at,
            position=place.position,
            starts_in_seconds=place.starts_in,
        )

    def _places(self) -> dict[str, Place]:
        with self._lock:
            now = self._store.now()
            if self._known is None or is_over(self._known[0] + _HOLDS, now, _HOLDS):
                self._known = (now, self._work_out(now))
            return self._known[1]

    def _work_out(self, now: datetime) -> dict[str, Place]:
        try:
            capacity = self._cluster.recent_capacity()
        except LauncherUnavailable:
            return {}
        placed, queue = self._store.placed_and_queued()
        return plan(placed, queue, capacity, self._settings, now).places
