"""Observes an attempt: its files, its driver's log, and the cluster's status of it."""

import logging
from datetime import datetime, timedelta

from jobs.crash_diagnosis import explain
from jobs.directory.files import write_atomically
from jobs.directory.records import Failure, Progress
from jobs.errors import LauncherUnavailable
from jobs.interfaces import submission_id
from service.db.changes import JobChanges
from service.db.models import JobRow
from service.reconciler.context import ReconcilerContext
from service.reconciler.event_feed import collect_events
from service.reconciler.liveness import Observation, read_records
from service.scheduling.log_reader import tail
from service.upstream.cluster_monitor import ClusterStatus

__all__ = ["cluster_status", "diagnose_crash", "observe", "save_driver_log"]

log = logging.getLogger(__name__)


def observe(context: ReconcilerContext, job: JobRow, *, ask: bool = False) -> tuple[JobRow, Observation]:
    """Observes the newest attempt, and writes down what is new of it.

    Its files are read, and the cluster is asked where these don't say enough.

    Args:
        context: of the reconciler.
        job: its row.
        ask: ask the cluster even while the heartbeat is fresh.

    Returns:
        The row as it is now, and what is known about the attempt.
    """
    now, folder = context.now(), context.attempt_folder(job)
    result, progress = read_records(folder)
    changes = _heartbeat_changes(job, progress, now)
    status = ClusterStatus.UNKNOWN
    if ask or (result is None and _should_ask(context, job, progress)):
        status = cluster_status(context, job)
        if status == ClusterStatus.ALIVE:
            changes["last_seen_at"] = now
    events, cursor = collect_events(job, folder, progress, now, context.settings.progress_event_every)
    if cursor != job.event_cursor:
        changes["event_cursor"] = cursor
    if changes:
        job = context.store.update(job, events, **changes)
    return job, Observation(result, progress, status)


def cluster_status(context: ReconcilerContext, job: JobRow) -> ClusterStatus:
    """What the cluster says about the newest attempt."""
    attempt = context.store.attempt(job.id, job.attempt)
    return context.cluster.status(attempt.submission_id, attempt.cluster_id)


def save_driver_log(context: ReconcilerContext, job: JobRow) -> None:
    """Where the newest attempt's driver printed nothing, keeps what the cluster says of it, if it answers."""
    own = context.attempt_folder(job).log
    if job.attempt == 0 or own.exists():
        return
    try:
        text = context.cluster.logs(submission_id(job.id, job.attempt))
    except LauncherUnavailable as error:
        log.info("job %s: its log is kept later: %s", job.id, error)
        return
    if text:
        write_atomically(own, text)


def diagnose_crash(context: ReconcilerContext, job: JobRow) -> Failure:
    """Why a driver died without a result, from what it printed."""
    save_driver_log(context, job)
    own = context.attempt_folder(job).log
    return explain(tail(own)[0].decode(errors="replace") if own.is_file() else "")


def _should_ask(context: ReconcilerContext, job: JobRow, progress: Progress | None) -> bool:
    """A fresh heartbeat says more than the cluster does, and costs nothing."""
    if progress is None or job.last_seen_at is None:
        return True
    return context.now() - job.last_seen_at >= timedelta(seconds=context.settings.cluster_poll)


def _heartbeat_changes(job: JobRow, progress: Progress | None, now: datetime) -> JobChanges:
    """What a heartbeat changes in a job's row."""
    changes: JobChanges = {}
    if progress is None:
        return changes
    known = job.progress
    if known is None or progress.time != known.time:
        changes["progress"] = progress
        changes["last_seen_at"] = now
    if job.last_progress_at is None or known is None or progress.last_progress_at != known.last_progress_at:
        changes["last_progress_at"] = now
    return changes
