"""STARTING and RUNNING: the attempt is observed until it has a result, or must be given up."""

from datetime import timedelta

from jobs.directory.records import Failure, Outcome, Result
from jobs.directory.stored_specs import parse_spec
from jobs.errors import ErrorClass, LauncherUnavailable, SpecUnreadable
from service.db.models import JobRow, Waiting, WaitingFor
from service.job_state import AttemptOutcome, State
from service.reconciler.context import Delay, ReconcilerContext, wait_for
from service.reconciler.finalization import end_job
from service.reconciler.liveness import Observation, Verdict, judge
from service.reconciler.observer import cluster_status, diagnose_crash, observe
from service.reconciler.recovery import MAX_MESSAGE, infrastructure_failure, lose_attempt
from service.scheduling.resources import missing_workers
from service.upstream.cluster_monitor import ClusterStatus

__all__ = ["take_result", "watch"]

_QUIET = timedelta(seconds=20)
"""An attempt that gets no further for so long may be waiting for workers."""


def watch(context: ReconcilerContext, job: JobRow) -> Delay:
    """Observes the attempt, and decides what follows."""
    job, observation = observe(context, job)
    settings, now = context.settings, context.now()
    if observation.result is not None:
        return take_result(context, job, observation.result)
    if job.state == State.STARTING and observation.progress is not None:
        return _start(context, job)
    verdict = judge(
        observation,
        now=now,
        since=job.state_since,
        last_seen_at=job.last_seen_at or job.state_since,
        last_progress_at=job.last_progress_at,
        settings=settings,
    )
    if verdict == Verdict.LOST:
        _take_failure(context, job, diagnose_crash(context, job))
    elif verdict == Verdict.STALLED:
        message = f"alive, but no further for {settings.stall_after:g} s"
        lose_attempt(context, job, infrastructure_failure(message))
    elif verdict == Verdict.NOT_STARTED:
        message = f"the cluster did not start it within {settings.start_deadline:g} s"
        lose_attempt(context, job, infrastructure_failure(message))
    elif _is_over_time(context, job):
        context.store.transition(
            job,
            State.CANCELLING,
            "ran into its time limit",
            leased=True,
            error_class=ErrorClass.TIME_LIMIT,
            error_message=f"ran for longer than {settings.time_limit:g} s",
        )
    else:
        _note_waiting(context, job, observation)
        return settings.reconcile_every
    return None


def _note_waiting(context: ReconcilerContext, job: JobRow, observation: Observation) -> None:
    """Says that the attempt waits for people or for a place for its workers, and when it does not any more.

    Raises:
        StaleRowError: the job's lease was lost, or it has moved on.
    """
    progress = observation.progress
    if progress is not None and progress.comparisons_missing:
        missing = (
            f"{progress.comparisons_missing} comparisons of trials: `seqae compare {job.id}`, or /compare#{job.id}"
        )
        wait_for(context, job, Waiting(reason=WaitingFor.COMPARISONS, missing=missing, since=context.now()))
        return
    quiet_since = job.state_since if job.last_progress_at is None else max(job.state_since, job.last_progress_at)
    quiet = context.now() - quiet_since
    missing_places: str | None = None
    if quiet >= _QUIET:
        try:
            spec = parse_spec(job.spec, job.spec_version)
            capacity = context.cluster.recent_capacity()
        except (SpecUnreadable, LauncherUnavailable):
            return  # nothing new is known
        missing_places = missing_workers(spec, capacity, progress)
    if missing_places is not None:
        wait_for(context, job, Waiting(reason=WaitingFor.WORKERS, missing=missing_places, since=context.now()))
    elif job.waiting is not None and job.waiting.reason in (WaitingFor.WORKERS, WaitingFor.COMPARISONS):
        wait_for(context, job, None)


def _start(context: ReconcilerContext, job: JobRow) -> Delay:
    """The first heartbeat is there."""
    now = context.now()
    context.store.update_attempt(job, started_at=now)
    context.store.transition(
        job,
        State.RUNNING,
        leased=True,
        started_at=job.started_at or now,
        error_class=None,
        error_message=None,
    )
    return None


def take_result(context: ReconcilerContext, job: JobRow, result: Result) -> Delay:
    """Follows from the attempt's own word on how it ended."""
    if result.outcome == Outcome.SUCCEEDED:
        context.store.transition(
            job,
            State.FINALIZING,
            leased=True,
            outcome=AttemptOutcome.SUCCEEDED,
            metrics=result.metrics,
            error_class=None,
            error_message=None,
        )
    elif result.outcome == Outcome.FAILED:
        failure = result.error or infrastructure_failure("it failed and gave no reason")
        if failure.error_class == ErrorClass.INTERNAL and job.state != State.PAUSING:
            # What a driver takes for its own error may be its cluster dying under it.
            status = cluster_status(context, job)
            if status == ClusterStatus.UNKNOWN:
                return context.settings.cluster_poll
            if status == ClusterStatus.GONE:
                failure = infrastructure_failure(f"the cluster was replaced under it: {failure.message}")
        _take_failure(context, job, failure)
    else:
        lose_attempt(context, job, infrastructure_failure(f"it left ({result.outcome}) without being asked"))
    return None


def _take_failure(context: ReconcilerContext, job: JobRow, failure: Failure) -> None:
    """Infrastructure's failures are tried again; the job's own only as often as its retries allow."""
    may_retry = job.retries < context.settings.max_retries and job.state != State.PAUSING
    if may_retry or not failure.error_class.is_users:
        lose_attempt(context, job, failure)
        return
    end_job(
        context,
        job,
        State.FAILED,
        failure.message.partition("\n")[0],
        outcome=AttemptOutcome.FAILED,
        error_class=failure.error_class,
        error_message=failure.message[:MAX_MESSAGE],
    )


def _is_over_time(context: ReconcilerContext, job: JobRow) -> bool:
    now, limit = context.now(), timedelta(seconds=context.settings.time_limit)
    if job.started_at is None or now - job.started_at < limit:
        return False
    # Pauses and waits between attempts don't count.
    ran = [
        (attempt.ended_at or now) - attempt.started_at
        for attempt in context.store.attempts(job.id)
        if attempt.started_at is not None
    ]
    return sum(ran, timedelta()) >= limit
