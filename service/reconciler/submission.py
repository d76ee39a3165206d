"""SUBMITTING: the cluster is asked to run the attempt that admission wrote down.

Like every phase: a step may be repeated at any time, makes at most one transition, and may raise LauncherUnavailable,
TrackingUnavailable or StaleRowError. Then nothing was decided, and the reconciler comes back.
"""

from jobs.directory.carry_over import inherit_run, inherit_search
from jobs.directory.fencing import issue_control
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control
from jobs.directory.stored_specs import parse_spec
from jobs.errors import ErrorClass, SpecUnreadable, SubmissionRefused
from jobs.interfaces import Submission
from jobs.specs import AnySpec
from jobs.telemetry.log_records import JOB_VARIABLE
from service.db.models import JobRow
from service.job_state import AttemptOutcome, State
from service.reconciler.context import Delay, ReconcilerContext
from service.reconciler.finalization import end_job
from service.reconciler.recovery import infrastructure_failure, lose_attempt
from service.reconciler.tracking_run import ensure_run

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
    issue_control(folder, Control(attempt=job.attempt))
    if job.retry_of is None:
        return
    before = JobFolder(context.jobs_dir / job.retry_of)
    if spec.kind == "train":
        inherit_run(before, folder)
    elif spec.kind == "tune":
        inherit_search(before, folder)


def _is_of_this_cluster(context: ReconcilerContext, job: JobRow) -> bool:
    """Whether no other cluster was asked to run the attempt; this one is written down before it is asked."""
    asked = context.store.attempt(job.id, job.attempt).cluster_id
    cluster_id = context.cluster.cluster_id()
    if asked is None:
        context.store.update_attempt(job, cluster_id=cluster_id)
    return asked is None or asked == cluster_id


def _start_driver(context: ReconcilerContext, job: JobRow, spec: AnySpec) -> None:
    """Asks the cluster, unless an earlier call got through without an answer. Raises: SubmissionRefused."""
    submission = Submission(
        job_id=job.id,
        attempt=job.attempt,
        kind=spec.kind,
        job_dir=context.folder(job).path,
        environment={**context.environment, "SEQAE_RUN_ID": job.mlflow_run_id or "", JOB_VARIABLE: job.id},
    )
    # An attempt that has left files has run, whatever the cluster remembers.
    has_run = context.attempt_folder(job).path.exists()
    if not has_run and context.cluster.state(submission.submission_id) is None:
        context.cluster.submit(submission)
