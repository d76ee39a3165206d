"""Conversion of database rows to wire models."""

from typing import Any

from jobs.directory.stored_specs import parse_spec
from jobs.errors import ErrorClass, SpecUnreadable
from jobs.specs import AnySpec
from seqae.evaluation.names import modern
from service.db.column_types import wire_safe
from service.db.models import AttemptRow, EventRow, JobRow, Waiting, WaitingFor
from service.job_state import Desired, State
from service.schemas.jobs import (
    AttemptView,
    ErrorView,
    Event,
    JobView,
    ModelView,
    ProgressView,
    PromotionView,
    WaitingView,
)

__all__ = ["attempt_view", "event_view", "job_view"]

_MOVING = frozenset({State.RUNNING, State.FINALIZING, State.SUCCEEDED})
"""States in which an estimate of the time left holds."""


def job_view(row: JobRow, in_queue: WaitingView | None = None) -> JobView:
    """A job as clients see it; one that this release can't read in full is shown as far as it can be.

    Args:
        row: its row.
        in_queue: what it waits for in the queue, if it is there.
    """
    spec, note = _spec_and_note(row)
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
        promotion=None if row.promotion is None else PromotionView.model_validate(row.promotion.model_dump()),
        waiting=_waiting_view(row.waiting) or in_queue,
        deleting=row.delete_requested,
        spec=spec,
        note=note,
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
    return Event(id=row.id, job_id=row.job_id, at=row.at, type=row.type, data=wire_safe(row.data))


def _spec_and_note(row: JobRow) -> tuple[AnySpec | dict[str, Any], str | None]:
    """The spec, as it is stored where it can't be read, and what can't be read of the job."""
    notes = []
    if row.state == State.UNKNOWN or row.desired == Desired.UNKNOWN:
        notes.append("its state is one of another release, and is left alone")
    spec: AnySpec | dict[str, Any]
    try:
        spec = parse_spec(row.spec, row.spec_version)
    except SpecUnreadable as error:
        spec = wire_safe(row.spec)
        notes.append(f"its spec is shown as it is stored, since this release can't read it: {error}")
    return spec, "; ".join(notes) or None


def _waiting_view(waiting: Waiting | None) -> WaitingView | None:
    if waiting is None:
        return None
    return WaitingView(reason=waiting.reason, missing=waiting.missing, since=waiting.since)


def _progress_view(row: JobRow) -> ProgressView | None:
    if row.progress is None:
        return None
    progress = ProgressView.model_validate(row.progress.model_dump())
    # It is the last heartbeat's: in other states nothing brings the end nearer.
    return progress if row.state in _MOVING else progress.model_copy(update={"eta_seconds": None})


def _error_view(row: JobRow | AttemptRow) -> ErrorView | None:
    if row.error_class is not None:
        return ErrorView(error_class=row.error_class, message=row.error_message or "")
    waiting = row.waiting if isinstance(row, JobRow) else None
    if waiting is not None and waiting.reason is WaitingFor.STEP:
        # Not its last word: the step is repeated.
        return ErrorView(error_class=ErrorClass.INTERNAL, message=waiting.missing)
    return None


def _model_view(row: JobRow) -> ModelView | None:
    if row.model_name is None or row.model_version is None:
        return None
    return ModelView(name=row.model_name, version=row.model_version)
