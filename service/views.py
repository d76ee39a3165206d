"""Jobs and events as clients see them."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from jobs.specs import AnySpec, job_spec
from service.states import Desired, State
from service.tables import AttemptRow, EventRow, JobRow

__all__ = [
    "AttemptView",
    "ErrorView",
    "Event",
    "JobView",
    "ModelView",
    "Page",
    "ProblemView",
    "ProgressView",
    "Validation",
]


_MOVING = {State.RUNNING, State.FINALIZING, State.SUCCEEDED}
"""States in which an estimate of the time left holds."""


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class ProgressView(_View):
    """How far the newest attempt is. Counts are of the whole run, not of the attempt."""

    phase: str
    iteration: int
    iterations: int
    epoch: float
    epochs: float
    loss: float | None = None
    test_mse: float | None = None
    images_per_second: float | None = None
    eta_seconds: float | None = None
    """None while nobody can know."""
    workers: int = 0
    trials: dict[str, int] | None = None
    """A search's trials, counted by state."""


class ErrorView(_View):
    """Why a job failed, or why its last attempt was lost."""

    error_class: str = Field(alias="class")
    message: str


class ModelView(_View):
    """The registered model that a job made."""

    name: str
    version: str


class JobView(_View):
    """A job."""

    id: str
    name: str
    kind: str
    state: State
    desired: Desired
    """What was last asked for: run, pause or cancel."""
    owner: str
    attempt: int
    """Number of the newest attempt; 0 before the first."""
    retries: int
    """Attempts after errors of the job's own."""
    losses: int
    """Attempts lost to infrastructure."""
    priority: int
    retry_of: str | None
    """The ended job that this one repeats."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    progress: ProgressView | None
    error: ErrorView | None
    metrics: dict[str, float] | None
    mlflow_url: str | None
    model: ModelView | None
    spec: AnySpec

    @classmethod
    def of(cls, row: JobRow) -> Self:
        progress = None if row.progress is None else ProgressView.model_validate(row.progress)
        if progress is not None and row.state not in _MOVING:
            # It is the last heartbeat's: nothing brings the end nearer now.
            progress = progress.model_copy(update={"eta_seconds": None})
        error = None
        if row.error_class is not None:
            error = ErrorView(error_class=row.error_class, message=row.error_message or "")
        model = None
        if row.model_name is not None and row.model_version is not None:
            model = ModelView(name=row.model_name, version=row.model_version)
        return cls(
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
            progress=progress,
            error=error,
            metrics=row.metrics,
            mlflow_url=row.mlflow_url,
            model=model,
            spec=job_spec.validate_python(row.spec),
        )


class Page(_View):
    """Jobs, newest first."""

    items: tuple[JobView, ...]
    next_cursor: str | None
    """Give it back for the next page; None at the end."""


class AttemptView(_View):
    """One try at a job."""

    number: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    outcome: str | None
    """succeeded, failed, lost, paused or cancelled; None while it is open."""
    error: ErrorView | None

    @classmethod
    def of(cls, row: AttemptRow) -> Self:
        error = None
        if row.error_class is not None:
            error = ErrorView(error_class=row.error_class, message=row.error_message or "")
        return cls(
            number=row.number,
            created_at=row.created_at,
            started_at=row.started_at,
            ended_at=row.ended_at,
            outcome=row.outcome,
            error=error,
        )


class Event(_View):
    """Something that happened to a job."""

    id: int
    """Increases; what Last-Event-ID names."""
    job_id: str
    at: datetime
    type: str
    """transition, progress, metrics, frame, notice or deleted."""
    data: dict[str, Any]

    @classmethod
    def of(cls, row: EventRow) -> Self:
        return cls(id=row.id, job_id=row.job_id, at=row.at, type=row.type, data=row.data)


class ProblemView(_View):
    """What is wrong with one field."""

    pointer: str
    detail: str


class Validation(_View):
    """What would happen to a spec, without doing it."""

    accepted: bool
    problems: tuple[ProblemView, ...]
    """Why it would be refused."""
    warnings: tuple[str, ...]
    """What can't be known now, such as a cluster that does not answer."""
    spec: AnySpec
    """With every default filled in."""
    workers: int
    """Workers that would train at once, on the cluster as it is now."""
    cpus: float
    gpus: float
    iterations: int
    """Optimizer steps, of one trial in a search."""
    seconds: float | None
    """About how long it would train, from jobs of the same model and size that ran here; None without one."""
    memory_bytes: int
    """About how much memory all workers would take."""
