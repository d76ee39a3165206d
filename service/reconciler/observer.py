"""Looking after an attempt: gathers the evidence, and writes down what is new of it."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.directory.layout import JobFolder
from jobs.directory.records import Progress
from service.db.models import JobRow
from service.db.store import Store
from service.reconciler.event_feed import news
from service.reconciler.liveness import Observation, read
from service.settings import ReconcilerSettings
from service.upstream.cluster_monitor import ClusterMonitor, ClusterStatus

__all__ = ["Observer"]


class Observer:
    """Reads the files of attempts, and asks the cluster where these don't say enough.

    Args:
        store: the job database.
        cluster: asked.
        jobs_dir: folder with a folder for each job.
        settings: how often to ask.
    """

    def __init__(self, store: Store, cluster: ClusterMonitor, jobs_dir: Path, settings: ReconcilerSettings) -> None:
        self._store = store
        self._cluster = cluster
        self._jobs_dir = jobs_dir
        self._settings = settings

    def look(self, job: JobRow, *, ask: bool = False) -> tuple[JobRow, Observation]:
        """Gathers the evidence on the newest attempt, and writes down what is new of it.

        Args:
            job: its row.
            ask: ask the cluster even while the heartbeat is fresh.
        """
        now = self._store.now()
        folder = JobFolder(self._jobs_dir / job.id).attempt(job.attempt)
        result, progress = read(folder)
        changes = _signs(job, progress, now)
        word = ClusterStatus.UNKNOWN
        if ask or (result is None and self._should_ask(job, progress)):
            word = self._cluster.word(self._store.attempt(job.id, job.attempt))
            if word == ClusterStatus.ALIVE:
                changes["alive_at"] = now
        happenings, told = news(job, folder, progress, now, self._settings.progress_event_every)
        if told != job.told:
            changes["told"] = told
        if changes:
            job = self._store.note(job, happenings, **changes)
        return job, Observation(result, progress, word)

    def _should_ask(self, job: JobRow, progress: Progress | None) -> bool:
        """A fresh heartbeat says more than the cluster does, and costs nothing."""
        if progress is None or job.alive_at is None:
            return True
        return self._store.now() - job.alive_at >= timedelta(seconds=self._settings.cluster_poll)


def _signs(job: JobRow, progress: Progress | None, now: datetime) -> dict[str, Any]:
    """What a heartbeat changes in a job's row."""
    if progress is None:
        return {}
    known = job.progress or {}
    changes: dict[str, Any] = {}
    if progress.time != known.get("time"):
        changes = {"progress": progress.model_dump(mode="json", by_alias=True), "alive_at": now}
    if job.moved_at is None or progress.last_progress_at != known.get("moved_at"):
        changes["moved_at"] = now
    return changes
