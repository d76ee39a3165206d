"""What every phase of a job's life works with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.interfaces import Tracking
from jobs.storage.job_files import JobFiles
from jobs.telemetry.tracing import Tracing
from service.db.models import JobRow, Waiting
from service.db.store import NewEvent, Store
from service.job_state import EventType
from service.metrics.instruments import Metrics
from service.settings import ReconcilerSettings
from service.upstream.cluster_monitor import ClusterMonitor

__all__ = ["Delay", "ReconcilerContext", "wait_for"]

Delay = float | None
"""Seconds for which a job may be left alone; None: there is more to do at once."""


@dataclass(frozen=True)
class ReconcilerContext:
    """The database, the cluster, the tracking server and the job folders of one control plane."""

    store: Store
    cluster: ClusterMonitor
    tracking: Tracking
    jobs_dir: Path
    """Folder with a folder for each job; absolute, the same on every machine."""
    settings: ReconcilerSettings
    environment: Mapping[str, str]
    """For every driver: where MLflow is, where data is."""
    files: JobFiles
    """Jobs' files, as this process and drivers find them."""
    metrics: Metrics = field(default_factory=Metrics)
    """Instruments for queue time and lost attempts."""
    tracing: Tracing = field(default_factory=Tracing)
    """Spans of this process."""

    def now(self) -> datetime:
        """The time by the control plane's clock."""
        return self.store.now()

    @property
    def cache_dir(self) -> Path:
        """Folder of built data sets, as drivers find it."""
        return Path(self.environment.get("SEQAE_CACHE_DIR") or self.jobs_dir.parent / "data")

    def folder(self, job: JobRow) -> JobFolder:
        """The job's folder; it may not exist yet."""
        return JobFolder(self.jobs_dir / job.id)

    def attempt_folder(self, job: JobRow) -> AttemptFolder:
        """The folder of the job's newest attempt."""
        return self.folder(job).attempt(job.attempt)


def wait_for(context: ReconcilerContext, job: JobRow, waiting: Waiting | None) -> JobRow:
    """Writes down what a job waits for, with an event where it begins or ends; None: it does not wait any more.

    Raises:
        StaleRowError: the job's lease was lost, or it has moved on.
    """
    known = job.waiting
    same = (None if known is None else known.reason) == (None if waiting is None else waiting.reason)
    if same and known is not None and waiting is not None:
        waiting = waiting.model_copy(update={"since": known.since})
    if known == waiting:
        return job
    about = {
        "for": None if waiting is None else waiting.reason,
        "missing": None if waiting is None else waiting.missing,
    }
    events = [] if same else [NewEvent(EventType.WAITING, {"attempt": job.attempt, **about})]
    return context.store.update(job, events, waiting=waiting)
