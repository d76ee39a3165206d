"""Conversion of database rows to wire models."""

from jobs.specs import job_spec
from seqae.evaluation.names import modern
from service.db.models import AttemptRow, EventRow, JobRow
from service.job_state import State
from service.schemas.jobs import AttemptView, ErrorView, Event, JobView, ModelView, ProgressView

__all__ = ["attempt_view", "event_view", "job_view"]

_MOVING = frozenset({State.RUNNING, State.FINALIZING, State.SUCCEEDED})
"""States in which an estimate of the time left holds."""


def job_view(row: JobRow) -> JobView:
    """A job as clients see it."""
    return JobView(
        id=row.id,
        name=row.name,
        kind=row.kind,
        state=row.state,
        desired=row.desired,
        owner=row.owner,
        attempt=row.attempt,
        retries=row.retries,
        losses=row.losses,
        priority=row.priority,
        retry_of=row.retry_of,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        progress=_progress_view(row),
        error=_error_view(row),
        metrics=None if row.metrics is None else modern(row.metrics),
        mlflow_url=row.mlflow_url,
        model=_model_view(row),
        spec=job_spec.validate_python(row.spec),
    )


def attempt_view(row: AttemptRow) -> AttemptView:
    """An attempt as clients see it."""
    return AttemptView(
        number=row.number,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        error=_error_view(row),
    )


def event_view(row: EventRow) -> Event:
    """An event as clients see it."""
    return Event(id=row.id, job_id=row.job_id, at=row.at, type=row.type, data=row.data)


def _progress_view(row: JobRow) -> ProgressView | None:
    if row.progress is None:
        return None
    progress = ProgressView.model_validate(row.progress.model_dump())
    # It is the last heartbeat's: in other states nothing brings the end nearer.
    return progress if row.state in _MOVING else progress.model_copy(update={"eta_seconds": None})


def _error_view(row: JobRow | AttemptRow) -> ErrorView | None:
    if row.error_class is None:
        return None
    return ErrorView(error_class=row.error_class, message=row.error_message or "")


def _model_view(row: JobRow) -> ModelView | None:
    if row.model_name is None or row.model_version is None:
        return None
    return ModelView(name=row.model_name, version=row.model_version)
