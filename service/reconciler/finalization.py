"""FINALIZING and ended jobs: metrics and model are taken to MLflow, and nothing is left running."""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Unpack

from jobs.directory.records import Control, Result, Want
from jobs.directory.stored_specs import parse_spec
from jobs.errors import ErrorClass, NoRun, TrackingUnavailable
from jobs.interfaces import RunStatus, submission_id
from jobs.specs import TrainSpec, TuneSpec, makes_model, model_name
from seqae.checkpoints.manifest import verify
from seqae.errors import CheckpointError
from service.db.changes import JobChanges
from service.db.models import JobRow
from service.db.store import NewEvent
from service.disk.removal import remove_job
from service.job_state import AttemptOutcome, Desired, EventType, State
from service.reconciler.context import Delay, ReconcilerContext
from service.reconciler.liveness import read_records
from service.reconciler.observer import cluster_status, save_driver_log
from service.reconciler.tracking_run import close_run, ensure_run, forget_run
from service.upstream.cluster_monitor import ClusterStatus

__all__ = ["clean_up", "end_job", "finalize"]

log = logging.getLogger(__name__)


def finalize(context: ReconcilerContext, job: JobRow) -> Delay:
    """FINALIZING: takes the rest of the metrics and the model to MLflow. Repeated until MLflow has them."""
    if job.desired == Desired.CANCEL:
        end_job(context, job, State.CANCELLED)
        return None
    result, _ = read_records(context.attempt_folder(job))
    if result is None or (result.checkpoint is None and makes_model(job.kind)):
        _lose_result(context, job, "its result names no model")
        return None
    job = ensure_run(context, job)
    try:
        _publish(context, job, result)
    except NoRun:
        forget_run(context, job)
        # The next step makes another; a server that keeps losing it must not be asked for ever.
        raise
    except CheckpointError as error:
        # An older checkpoint is still there: the next attempt goes on from it.
        _lose_result(context, job, f"the model's checkpoint is damaged: {error}")
    return None


def _publish(context: ReconcilerContext, job: JobRow, result: Result) -> None:
    """Ships, registers the model, closes the run. Raises: NoRun, CheckpointError, TrackingUnavailable."""
    run_id, folder = job.mlflow_run_id, context.folder(job).path
    if run_id is None:
        raise NoRun(f"job {job.id} has no run")
    checkpoint = None if result.checkpoint is None else folder / result.checkpoint
    if checkpoint is not None:
        if not checkpoint.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError("it lies outside of the job's folder")
        context.files.fetch_checkpoint(job.id, str(result.checkpoint))
        verify(checkpoint)
    save_driver_log(context, job)
    context.tracking.ship(folder, run_id)
    if context.store.reload(job).desired == Desired.CANCEL:
        return  # The next look cancels it. From here on the model is out, and a request comes too late.
    if checkpoint is None:
        registered: JobChanges = {}
        reason = "nothing is left to do"
    else:
        registered, reason = _register(context, job, run_id, checkpoint, result)
    context.tracking.close_run(run_id, RunStatus.FINISHED)
    context.store.transition(context.store.reload(job), State.SUCCEEDED, reason, leased=True, **registered)


def _register(
    context: ReconcilerContext, job: JobRow, run_id: str, checkpoint: Path, result: Result
) -> tuple[JobChanges, str]:
    """Registers the model, which may make it the champion; gives the columns that say so, and the reason."""
    spec = parse_spec(job.spec, job.spec_version)
    if not isinstance(spec, TrainSpec | TuneSpec):
        raise TypeError(f"a {spec.kind} job makes no model")
    report = context.attempt_folder(job).read_report()
    made = context.tracking.register(job.id, run_id, model_name(spec), checkpoint, result.metrics, report)
    version, promotion = made.version, made.promotion
    about = {"model": version.name, "version": version.version, "who": ""}
    event = NewEvent(EventType.PROMOTION, {**about, **promotion.model_dump(mode="json", exclude={"scores"})})
    columns: JobChanges = {"model_name": version.name, "model_version": version.version, "promotion": promotion}
    if job.promotion is None:
        context.store.update(context.store.reload(job), [event], **columns)
    outcome = "the champion now" if promotion.promoted else "not promoted"
    return columns, f"registered as {version.name} version {version.version}, {outcome}: {promotion.reason}"


def _lose_result(context: ReconcilerContext, job: JobRow, message: str) -> None:
    """A result that can't be published counts as a lost attempt: the next one goes on from an older checkpoint."""
    context.store.transition(
        job,
        State.LOST,
        message,
        leased=True,
        queued_at=context.now(),
        losses=job.losses + 1,
        losses_in_row=job.losses_in_row + 1,
        error_class=ErrorClass.CHECKPOINT,
        error_message=message,
    )
    context.metrics.attempts_lost.labels(ErrorClass.CHECKPOINT).inc()


def end_job(
    context: ReconcilerContext,
    job: JobRow,
    state: State,
    reason: str | None = None,
    *,
    outcome: AttemptOutcome | None = None,
    **changes: Unpack[JobChanges],
) -> None:
    """Moves a job to its last state. Its MLflow run is closed first if MLflow answers, else when cleaning up.

    Args:
        context: of the reconciler.
        job: its row.
        state: FAILED or CANCELLED.
        reason: why; None: the usual reason.
        outcome: of the newest attempt, where that is still open.
        changes: other columns.
    """
    try:
        close_run(context, job, state)
    except TrackingUnavailable as error:
        log.info("job %s: its run is closed later: %s", job.id, error)
    context.store.transition(job, state, reason, leased=True, outcome=outcome, **changes)


def clean_up(context: ReconcilerContext, job: JobRow) -> Delay:
    """Ended jobs: makes sure that no process, no open run and no log is left behind."""
    if job.attempt > 0:
        context.files.issue_control(job.id, Control(attempt=job.attempt + 1, want=Want.CANCEL))
        status = cluster_status(context, job)
        if status == ClusterStatus.UNKNOWN:
            return context.settings.cluster_poll
        if status == ClusterStatus.ALIVE:
            _stop_if_it_lingers(context, job)
            return context.settings.reconcile_every
    save_driver_log(context, job)
    close_run(context, job, job.state)
    context.files.drop_checkpoints(job.id)
    cleaned = context.store.update(job, cleaned_up=True)
    if cleaned.delete_requested:
        remove_job(context.store, context.files, context.jobs_dir, context.cache_dir, cleaned)
    return None


def _stop_if_it_lingers(context: ReconcilerContext, job: JobRow) -> None:
    """A driver that has written its result needs a moment to leave."""
    if context.now() - job.state_since >= timedelta(seconds=context.settings.exit_grace):
        context.cluster.stop(submission_id(job.id, job.attempt))
