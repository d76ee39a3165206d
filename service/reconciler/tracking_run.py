"""The MLflow run of a job: made before its first attempt, closed with the job, made again where MLflow lost it."""

import logging

from jobs.backends.provenance import changed_params, run_details
from jobs.directory.records import Shipped
from jobs.directory.stored_specs import parse_spec
from jobs.errors import NoRun, SpecUnreadable
from jobs.interfaces import RunDetails, RunStatus
from service.db.models import JobRow
from service.job_state import State
from service.reconciler.context import ReconcilerContext

__all__ = ["RUN_STATUS", "close_run", "ensure_run", "forget_run"]

log = logging.getLogger(__name__)

RUN_STATUS = {
    State.SUCCEEDED: RunStatus.FINISHED,
    State.FAILED: RunStatus.FAILED,
    State.CANCELLED: RunStatus.KILLED,
}
"""How the run of an ended job is closed."""


def ensure_run(context: ReconcilerContext, job: JobRow) -> JobRow:
    """Makes the job's run, if it has none. Raises: TrackingUnavailable."""
    if job.mlflow_run_id is not None:
        return job
    try:
        spec = parse_spec(job.spec, job.spec_version)
        params, details = changed_params(spec), run_details(spec, job.owner)
    except SpecUnreadable as error:
        log.warning("job %s: its run has no parameters: %s", job.id, error)
        params, details = {}, RunDetails(owner=job.owner)
    run = context.tracking.create_run(job.id, job.name, job.kind, params, details)
    return context.store.update(job, mlflow_run_id=run.run_id, mlflow_url=run.url)


def forget_run(context: ReconcilerContext, job: JobRow) -> None:
    """MLflow has lost the run: the next step makes another and ships everything again."""
    log.warning("job %s: MLflow knows no run %s any more; making another", job.id, job.mlflow_run_id)
    context.folder(job).write_shipped(Shipped())
    context.store.update(job, mlflow_run_id=None, mlflow_url=None)


def close_run(context: ReconcilerContext, job: JobRow, state: State) -> None:
    """Ships what is left and closes the run of a job that ends in a state. Raises: TrackingUnavailable."""
    run_id, folder = job.mlflow_run_id, context.folder(job).path
    if run_id is None:
        return
    try:
        if folder.is_dir():
            context.tracking.ship(folder, run_id)
        context.tracking.close_run(run_id, RUN_STATUS[state])
    except NoRun:
        log.warning("job %s has ended, and MLflow has lost its run %s", job.id, run_id)
