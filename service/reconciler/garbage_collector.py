"""Garbage collector: removes what no job's own step would find any more, since its state has moved on."""

import logging
import shutil
from datetime import timedelta

from service.db.models import JobRow
from service.job_state import ACTIVE
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
                self._context.tracking.close_run(run.run_id, RUN_STATUS[job.state])

    def delete_leftover_files(self) -> None:
        """Removes the files of deleted jobs that a crash has left."""
        trash = self._context.jobs_dir / ".deleted"
        if not trash.is_dir():
            return
        known = self._context.store.jobs({path.name for path in trash.iterdir()})
        for path in trash.iterdir():
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)

    def prune_rows(self) -> None:
        """Removes rows that nobody will ask for again: old progress events, and deliveries that are done."""
        self._context.store.prune(self._context.now() - _PROGRESS_KEPT)


def _is_open(job: JobRow, number: str) -> bool:
    # Of an ended job its own step waits for the driver to leave; of one being finalized likewise.
    if number != str(job.attempt):
        return False
    return job.state in ACTIVE or not job.cleaned_up
