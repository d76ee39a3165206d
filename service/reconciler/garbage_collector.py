"""Leftovers: what no job's own step would find any more, since its state has moved on."""

import logging
import shutil
from datetime import timedelta
from pathlib import Path

from jobs.interfaces import Launcher, RunStatus, Tracking
from service.db.models import JobRow
from service.db.store import Store
from service.job_state import ACTIVE, State

__all__ = ["GarbageCollector"]

log = logging.getLogger(__name__)

_KEPT = timedelta(days=3)
"""How long a client may stay away from a job's events and still be told every beat of progress."""

_STATUS = {State.SUCCEEDED: RunStatus.FINISHED, State.FAILED: RunStatus.FAILED, State.CANCELLED: RunStatus.KILLED}


class GarbageCollector:
    """Finds leftovers and removes them. One process at a time does it; doing it twice is harmless.

    Only what names a job of this database is touched: the cluster and MLflow may be shared with others.

    Args:
        store: the job database.
        launcher: the cluster.
        tracking: MLflow.
        jobs_dir: folder with a folder for each job.
    """

    def __init__(self, store: Store, launcher: Launcher, tracking: Tracking, jobs_dir: Path) -> None:
        self._store = store
        self._launcher = launcher
        self._tracking = tracking
        self._jobs_dir = jobs_dir

    def processes(self) -> None:
        """Stops attempts on the cluster that are not a job's open one. Raises: LauncherUnavailable."""
        live = self._launcher.live()
        jobs = self._store.jobs({name.rpartition("-")[0] for name in live})
        for name in live:
            job_id, _, number = name.rpartition("-")
            job = jobs.get(job_id)
            if job is not None and not _is_open(job, number):
                log.warning("stopping %s: the job is %s with attempt %d", name, job.state, job.attempt)
                self._launcher.stop(name)

    def runs(self) -> None:
        """Closes runs that are open though their job has ended. Raises: TrackingUnavailable."""
        runs = self._tracking.open_runs()
        jobs = self._store.jobs({run.job_id for run in runs})
        for run in runs:
            job = jobs.get(run.job_id)
            if job is not None and job.tidy and job.state.is_terminal:
                log.warning("closing run %s: its job %s has ended", run.run_id, job.id)
                self._tracking.close_run(run.run_id, _STATUS[job.state])

    def files(self) -> None:
        """Removes the files of deleted jobs that a crash has left."""
        bin_ = self._jobs_dir / ".deleted"
        if not bin_.is_dir():
            return
        known = self._store.jobs({path.name for path in bin_.iterdir()})
        for path in bin_.iterdir():
            if path.name not in known:
                shutil.rmtree(path, ignore_errors=True)

    def rows(self) -> None:
        """Removes what nobody will ask for again: old beats of progress, and deliveries that are done."""
        self._store.forget(self._store.now() - _KEPT)


def _is_open(job: JobRow, number: str) -> bool:
    # Of an ended job its own step waits for the driver to leave; of one being finalized likewise.
    if number != str(job.attempt):
        return False
    return job.state in ACTIVE or not job.tidy
