"""PAUSING and CANCELLING: the attempt is asked to leave, and by force after a grace time."""

from datetime import timedelta

from jobs.directory.records import Control, Outcome, Want
from jobs.errors import ErrorClass
from service.db.models import JobRow
from service.job_state import AttemptOutcome, Desired, State
from service.reconciler.context import Delay, ReconcilerContext
from service.reconciler.finalization import end_job
from service.reconciler.liveness import Observation, has_exited
from service.reconciler.observer import observe, save_driver_log
from service.reconciler.running import take_result

__all__ = ["wait_for_cancel", "wait_for_pause"]


def wait_for_pause(context: ReconcilerContext, job: JobRow) -> Delay:
    """PAUSING: until the attempt has left with a checkpoint, or has ended before it saw the request."""
    job, observation = observe(context, job, ask=True)
    result = observation.result
    if result is not None and result.outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
        error = result.error
        if result.outcome == Outcome.SUCCEEDED or (error is not None and error.error_class.is_users):
            return take_result(context, job, result)
    if not _has_left(context, job, observation, Want.PAUSE):
        return context.settings.reconcile_every
    context.files.issue_control(job.id, Control(attempt=job.attempt + 1))
    save_driver_log(context, job)
    context.store.transition(job, State.PAUSED, leased=True, outcome=AttemptOutcome.PAUSED)
    return None


def wait_for_cancel(context: ReconcilerContext, job: JobRow) -> Delay:
    """CANCELLING: until the attempt has left; a job that ran into its time limit has failed then."""
    job, observation = observe(context, job, ask=True)
    if not _has_left(context, job, observation, Want.CANCEL):
        return context.settings.reconcile_every
    context.files.issue_control(job.id, Control(attempt=job.attempt + 1, want=Want.CANCEL))
    by_limit = job.error_class == ErrorClass.TIME_LIMIT and job.desired != Desired.CANCEL
    end_job(context, job, State.FAILED if by_limit else State.CANCELLED, outcome=AttemptOutcome.CANCELLED)
    return None


def _has_left(context: ReconcilerContext, job: JobRow, observation: Observation, want: Want) -> bool:
    """Asks an attempt to leave, by force after the grace time, and says whether it has."""
    attempt = context.store.attempt(job.id, job.attempt)
    if attempt.cluster_id is None:
        return True  # No cluster was ever asked to run it.
    now = context.now()
    context.files.issue_control(job.id, Control(attempt=job.attempt, want=want))
    if has_exited(observation, now - (job.last_seen_at or job.state_since), context.settings):
        return True
    if now - job.state_since >= timedelta(seconds=context.settings.stop_grace):
        context.cluster.stop(attempt.submission_id)
    return False
