"""LOST and RETRY_WAIT: a lost attempt is fenced off, and the next one waits out its back-off."""

import logging
from datetime import timedelta

from jobs.directory.records import Control, Failure
from jobs.errors import ErrorClass, LauncherUnavailable
from jobs.interfaces import submission_id
from service.backoff import exponential_backoff
from service.db.changes import JobChanges
from service.db.models import JobRow
from service.job_state import AttemptOutcome, Desired, State
from service.reconciler.context import Delay, ReconcilerContext
from service.reconciler.finalization import end_job
from service.reconciler.observer import save_driver_log

__all__ = ["MAX_MESSAGE", "fence_off", "infrastructure_failure", "lose_attempt", "queue_again"]

log = logging.getLogger(__name__)

MAX_MESSAGE = 10_000
"""Characters of an error's message that are kept."""

_JITTER = 0.25
"""Share by which a back-off is spread, so that jobs lost together don't come back together."""


def infrastructure_failure(message: str) -> Failure:
    """A failure that is not the job's own: it is tried again, and spends none of the user's retries."""
    return Failure(error_class=ErrorClass.INFRASTRUCTURE, message=message)


def lose_attempt(context: ReconcilerContext, job: JobRow, failure: Failure) -> None:
    """Gives an attempt up; what comes next is decided when it is fenced off."""
    iteration = 0 if job.progress is None else job.progress.iteration
    got_further = iteration > job.best_iteration
    changes: JobChanges = {
        "best_iteration": max(iteration, job.best_iteration),
        "losses_in_row": 1 if got_further else job.losses_in_row + 1,
        "queued_at": context.now(),
        "error_class": failure.error_class,
        "error_message": failure.message[:MAX_MESSAGE],
    }
    if failure.error_class.is_users:
        changes["retries"] = job.retries + 1
    elif failure.error_class is ErrorClass.PREEMPTED:
        changes["losses_in_row"] = 0  # it left in time: nothing is wrong with the job or with its machines
    else:
        changes["losses"] = job.losses + 1
    reason = failure.message.partition("\n")[0]
    context.store.transition(job, State.LOST, reason, leased=True, outcome=AttemptOutcome.LOST, **changes)
    context.metrics.attempts_lost.labels(failure.error_class).inc()


def fence_off(context: ReconcilerContext, job: JobRow) -> Delay:
    """LOST: makes sure that the lost attempt can do no harm if it wakes up, then lets the next one wait its turn."""
    context.files.issue_control(job.id, Control(attempt=job.attempt + 1))
    _try_to_stop(context, job)
    save_driver_log(context, job)
    if job.desired == Desired.CANCEL:
        end_job(context, job, State.CANCELLED)
    elif job.losses > context.settings.max_losses:
        end_job(context, job, State.FAILED, f"lost {job.losses} attempts: {job.error_message}")
    elif job.desired == Desired.PAUSE:
        context.store.transition(job, State.PAUSED, leased=True)
    else:
        settings = context.settings
        wait = exponential_backoff(max(1, job.losses_in_row), settings.retry_wait, settings.retry_wait_max, _JITTER)
        again = context.now() + timedelta(seconds=wait)
        reason = f"will be tried again in {wait:.0f} s"
        context.store.transition(job, State.RETRY_WAIT, reason, leased=True, not_before=again)
    return None


def queue_again(context: ReconcilerContext, job: JobRow) -> Delay:
    """RETRY_WAIT whose back-off is over, or PAUSED though it is to run.

    The latter has made room for another job, or was resumed while the attempt was still leaving.
    """
    changes: JobChanges = {"queued_at": context.now()} if job.state is State.PAUSED else {}
    context.store.transition(job, State.QUEUED, leased=True, **changes)
    return None


def _try_to_stop(context: ReconcilerContext, job: JobRow) -> None:
    """Stops the newest attempt's process, if the cluster answers; if not, it is fenced off anyway."""
    try:
        context.cluster.stop(submission_id(job.id, job.attempt))
    except LauncherUnavailable as error:
        log.info("job %s: attempt %d is left to its fence: %s", job.id, job.attempt, error)
