"""Which columns may be written, and with what: a misspelt column or a value of another type fails the type checker."""

from datetime import datetime
from typing import TypedDict

from jobs.directory.records import Progress
from jobs.errors import ErrorClass
from jobs.promotion import Promotion
from service.db.models import EventCursor, Waiting
from service.job_state import AttemptOutcome, Desired

__all__ = ["AttemptChanges", "JobChanges"]


class JobChanges(TypedDict, total=False):
    """Columns of a job's row beside its state; see `service.db.models.JobRow` for what each means."""

    desired: Desired
    priority: int
    attempt: int
    retries: int
    losses: int
    losses_in_row: int
    best_iteration: int
    not_before: datetime | None
    cleaned_up: bool
    error_class: ErrorClass | None
    error_message: str | None
    progress: Progress | None
    metrics: dict[str, float] | None
    mlflow_run_id: str | None
    mlflow_url: str | None
    model_name: str | None
    model_version: str | None
    promotion: Promotion | None
    queued_at: datetime
    started_at: datetime | None
    last_seen_at: datetime | None
    last_progress_at: datetime | None
    waiting: Waiting | None
    delete_requested: bool
    event_cursor: EventCursor | None


class AttemptChanges(TypedDict, total=False):
    """Columns of an attempt's row; see `service.db.models.AttemptRow`."""

    cluster_id: str
    started_at: datetime
    ended_at: datetime
    outcome: AttemptOutcome
    error_class: str | None
    error_message: str | None
