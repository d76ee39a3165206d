"""SUBMITTING: the cluster is asked to run the attempt that admission wrote down.

Like every phase: a step may be repeated at any time, makes at most one transition, and may raise LauncherUnavailable,
TrackingUnavailable or StaleRowError. Then nothing was decided, and the reconciler comes back.
"""

from jobs.directory.carry_over import inherit_run, inherit_search
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control
from jobs.directory.stored_specs import parse_spec
from jobs.errors import ErrorClass, SpecUnreadable, SubmissionRefused
from jobs.interfaces import Submission, WorkerDemand
from jobs.specs import AnySpec
from jobs.telemetry.log_records import JOB_VARIABLE
from jobs.telemetry.tracing import TRACEPARENT_VARIABLE
from service.db.models import JobRow
from service.job_state import AttemptOutcome, State
from service.reconciler.context import Delay, ReconcilerContext
from service.reconciler.finalization import end_job
from service.reconciler.recovery import infrastructure_failure, lose_attempt
from service.reconciler.tracking_run import ensure_run
from service.scheduling.resources import demand

__all__ = ["submit"]


def submit(context: ReconcilerContext, job: JobRow) -> Delay:
    """Writes the job's folder, makes its MLflow run, and starts its driver on the cluster."""
    try:
        spec = parse_spec(job.spec, job.spec_version)
    except SpecUnreadable as error:
        _fail(context, job, ErrorClass.SPEC_UNREADABLE, f"its spec can't be read by this release: {error}")
        return None
    _write_folder(context, job, spec)
    job = ensure_run(context, job)
    if not _is_of_this_cluster(context, job):
        # The head that was asked may have started a driver, which outlives it; this number must not run twice.
        lose_attempt(context, job, infrastructure_failure("the cluster was replaced while it was asked"))
        return None
    try:
        _start_driver(context, job, spec)
    except SubmissionRefused as error:
        _fail(context, job, ErrorClass.SUBMISSION_REFUSED, str(error))
        return None
    context.store.transition(job, State.STARTING, leased=True, last_seen_at=context.now())
    return None


def _fail(context: ReconcilerContext, job: JobRow, error_class: ErrorClass, message: str) -> None:
    """Ends the job: trying the same again won't help."""
    outcome = AttemptOutcome.FAILED
    end_job(context, job, State.FAILED, message, outcome=outcome, error_class=error_class, error_message=message)


def _write_folder(context: ReconcilerContext, job: JobRow, spec: AnySpec) -> None:
    """The files that the driver reads; those of the job that this one repeats are carried over as attempt 0."""
    folder = context.folder(job)
    folder.write_spec(spec)
    context.files.issue_control(job.id, Control(attempt=job.attempt))
    carries_over = job.retry_of is not None and job.attempt == 1
    if job.retry_of is not None:
        if carries_over:
            context.files.fetch_whole(job.retry_of)
        before = JobFolder(context.jobs_dir / job.retry_of)
        if spec.kind == "train":
            inherit_run(before, folder)
        elif spec.kind == "tune":
            inherit_search(before, folder)
    context.files.publish(job.id, carried_over=carries_over)


def _is_of_this_cluster(context: ReconcilerContext, job: JobRow) -> bool:
    """Whether no other cluster was asked to run the attempt; this one is written down before it is asked."""
    asked = context.store.attempt(job.id, job.attempt).cluster_id
    cluster_id = context.cluster.cluster_id()
    if asked is None:
        context.store.update_attempt(job, cluster_id=cluster_id)
    return asked is None or asked == cluster_id


def _start_driver(context: ReconcilerContext, job: JobRow, spec: AnySpec) -> None:
    """Asks the cluster, unless an earlier call got through without an answer. Raises: SubmissionRefused."""
    attributes: dict[str, str | int] = {
        "seqae.job.id": job.id,
        "seqae.attempt": job.attempt,
        "seqae.job.kind": spec.kind,
    }
    with context.tracing.span("submit attempt", attributes, parent=_traceparent(context, job)) as span:
        environment = {
            **context.environment,
            **context.files.environment,
            "SEQAE_RUN_ID": job.mlflow_run_id or "",
            JOB_VARIABLE: job.id,
        }
        if span.traceparent is not None:
            environment[TRACEPARENT_VARIABLE] = span.traceparent
        needed = demand(spec)
        submission = Submission(
            job_id=job.id,
            attempt=job.attempt,
            kind=spec.kind,
            job_dir=context.files.driver_folder(job.id, job.attempt),
            environment=environment,
            demand=WorkerDemand(needed.workers, needed.cpus, needed.gpus),
        )
        # An attempt that has left files has run, whatever the cluster remembers.
        has_run = context.attempt_folder(job).path.exists()
        if not has_run and context.cluster.state(submission.submission_id) is None:
            context.cluster.submit(submission)


def _traceparent(context: ReconcilerContext, job: JobRow) -> str | None:
    """The span of the request that submitted the job, by its first event; None where there was none."""
    if not context.tracing.is_on:
        return None
    found = [event.data.get("traceparent") for event in context.store.events(job_id=job.id, limit=1)]
    return found[0] if found and isinstance(found[0], str) else None
