"""Garbage collector: removes what no job's own step would find any more, since its state has moved on."""

import logging
import shutil
from collections.abc import Callable
from datetime import timedelta

from jobs.errors import TrackingUnavailable
from jobs.interfaces import RunStatus
from seqae.errors import Error
from service.db.audit import AuditLog
from service.db.models import JobRow
from service.db.retention import Retention
from service.disk.removal import TRASH, remove_job
from service.disk.retention.job_retention import JobRetention
from service.disk.sizes import size_of
from service.disk.sweep import DiskSweep
from service.job_state import ACTIVE, State
from service.reconciler.context import ReconcilerContext
from service.reconciler.tracking_run import RUN_STATUS

__all__ = ["GarbageCollector"]

log = logging.getLogger(__name__)

_PROGRESS_KEPT = timedelta(days=3)
"""How long a client may stay away from a job's events and still be told every step of its progress."""


class GarbageCollector:
    """Finds leftovers and removes them. One process at a time does it; doing it twice is harmless.

    Only what names a job of this database is touched: the cluster and MLflow may be shared with others.

    Args:
        context: of the reconciler.
    """

    def __init__(self, context: ReconcilerContext) -> None:
        self._context = context
        self._retention = Retention(context.store.database)

    def stop_orphaned_attempts(self) -> None:
        """Stops attempts on the cluster that are not a job's open one. Raises: LauncherUnavailable."""
        live = self._context.cluster.live()
        jobs = self._context.store.jobs({name.rpartition("-")[0] for name in live})
        for name in live:
            job_id, _, number = name.rpartition("-")
            job = jobs.get(job_id)
            if job is not None and not _is_open(job, number):
                log.warning("stopping %s: the job is %s with attempt %d", name, job.state, job.attempt)
                self._context.cluster.stop(name)

    def close_orphaned_runs(self) -> None:
        """Closes MLflow runs that are open though their job has ended. Raises: TrackingUnavailable."""
        runs = self._context.tracking.open_runs()
        jobs = self._context.store.jobs({run.job_id for run in runs})
        for run in runs:
            job = jobs.get(run.job_id)
            if job is not None and job.cleaned_up and job.state.is_terminal:
                log.warning("closing run %s: its job %s has ended", run.run_id, job.id)
                self._close(run.run_id, RUN_STATUS[job.state])

    def _close(self, run_id: str, status: RunStatus) -> None:
        """Closes a run; one that MLflow does not let go concerns nobody else."""
        try:
            self._context.tracking.close_run(run_id, status)
        except TrackingUnavailable:
            raise
        except Error as error:
            log.warning("run %s stays open: %s", run_id, error)

    def delete_jobs(self) -> None:
        """Removes jobs that were deleted while they were being cleaned up, where a crash has left them."""
        for job in self._context.store.to_delete():
            remove_job(self._context.store, self._context.files, self._context.jobs_dir, self._context.cache_dir, job)

    def delete_leftover_files(self) -> None:
        """Removes the files of deleted jobs that a crash has left."""
        trash = self._context.jobs_dir / TRASH
        if not trash.is_dir():
            return
        known = self._context.store.jobs({path.name for path in trash.iterdir()})
        for path in trash.iterdir():
            if path.name not in known:
                log.info("removed what a deletion left: %s, %d bytes", path, size_of(path).bytes)
                shutil.rmtree(path, ignore_errors=True)

    def retain_jobs(self) -> None:
        """Removes ended jobs that are over a limit, where one is set. Raises: TrackingUnavailable."""
        context = self._context
        folders = (context.files, context.jobs_dir, context.cache_dir)
        JobRetention(context.store, *folders, context.tracking, context.settings).apply()

    def prune_rows(self) -> None:
        """Removes rows that nobody will ask for again: old progress events, and deliveries that are done."""
        self._report("old progress events and deliveries", self._retention.prune(self._context.now() - _PROGRESS_KEPT))

    def correct_times(self) -> None:
        """Lets waits begin anew that began in the future: the clock was set back since."""
        self._context.store.correct_queue_times()

    def prune_events(self) -> None:
        """Removes events over a job's quota, and those of jobs that were deleted long ago."""
        settings, now = self._context.settings, self._context.now()
        self._report("events over a job's quota", self._retention.limit_events(settings.max_events))
        before = now - timedelta(days=settings.deleted_events_days)
        self._report("events of deleted jobs", self._retention.forget_deleted_jobs(before))

    def prune_audit(self) -> None:
        """Removes rows of the audit log that are too old or too many."""
        settings = self._context.settings
        before = self._context.now() - timedelta(days=settings.audit_days)
        log_rows = AuditLog(self._context.store.database, self._context.now)
        self._report("rows of the audit log", log_rows.prune(before, settings.max_audit_rows))

    @property
    def disk_parts(self) -> tuple[Callable[[], object], ...]:
        """The parts that look at whole folders, which should not be done too often."""
        disk = DiskSweep(self._context.store, self._context.jobs_dir, self._context.cache_dir, self._context.settings)
        parts = (self.retain_jobs, disk.data, disk.models, self.prune_events, self.prune_audit)
        # What is removed of copies would be copied again.
        return (disk.film_strips, disk.logs, *parts) if self._context.files.is_shared else parts

    def _report(self, what: str, rows: int) -> None:
        if rows:
            log.info("removed %d %s", rows, what)


def _is_open(job: JobRow, number: str) -> bool:
    # Of an ended job its own step waits for the driver to leave; of one being finalized likewise.
    if job.state == State.UNKNOWN:
        return True  # another release's to judge
    if number != str(job.attempt):
        return False
    return job.state in ACTIVE or not job.cleaned_up
