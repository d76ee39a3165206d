"""What every phase of a job's life works with."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.interfaces import Tracking
from service.db.models import JobRow
from service.db.store import Store
from service.settings import ReconcilerSettings
from service.upstream.cluster_monitor import ClusterMonitor

__all__ = ["Delay", "ReconcilerContext"]

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

    def now(self) -> datetime:
        """The time by the control plane's clock."""
        return self.store.now()

    def folder(self, job: JobRow) -> JobFolder:
        """The job's folder; it may not exist yet."""
        return JobFolder(self.jobs_dir / job.id)

    def attempt_folder(self, job: JobRow) -> AttemptFolder:
        """The folder of the job's newest attempt."""
        return self.folder(job).attempt(job.attempt)
