"""Wire models of jobs, attempts and events."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from jobs.specs import AnySpec, JobSpec
from service.job_state import Desired, State
from service.schemas.base import Schema

__all__ = [
    "END_OF_EVENTS",
    "AttemptView",
    "ErrorView",
    "Event",
    "FrameList",
    "JobView",
    "ModelView",
    "Page",
    "PriorityChange",
    "ProblemView",
    "ProgressView",
    "PromotionView",
    "Validation",
    "WaitingView",
]


END_OF_EVENTS = "end"
"""Type of the last message in a job's stream of events: the job has ended, and a client need not come back."""


class ProgressView(Schema):
    """How far the newest attempt is. Counts are of the whole run, not of the attempt."""

    phase: str
    iteration: int
    iterations: int
    epoch: float
    epochs: float
    loss: float | None = None
    val_mse: float | None = None
    """Error of the newest evaluation, on the images of `val`."""
    images_per_second: float | None = None
    eta_seconds: float | None = None
    """None while nobody can know."""
    workers: int = 0
    trials: dict[str, int] | None = None
    """A search's trials, counted by state."""


class ErrorView(Schema):
    """Why a job failed, or why its last attempt was lost."""

    error_class: str = Field(alias="class")
    message: str


class ModelView(Schema):
    """The registered model that a job made."""

    name: str
    version: str


class PromotionView(Schema):
    """Whether a job's model became the champion of its name, and why."""

    promoted: bool
    reason: str
    against: str | None
    """The champion that it was compared with, as NAME/VERSION."""
    scores: dict[str, dict[str, float]]
    """Test metrics of `challenger` and `champion` on the same images, and their `difference`."""


class WaitingView(Schema):
    """What a job waits for that does not get further."""

    reason: str = Field(alias="for")
    """workers: a place on the cluster for them. cluster, mlflow, disk: that it works again. step: a step of the control
    plane that fails for this job and is repeated."""
    missing: str
    """What is missing, in words."""
    since: datetime


class JobView(Schema):
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
    promotion: PromotionView | None = None
    """None until the model is registered."""
    waiting: WaitingView | None = None
    """Why it does not get further now; None while it does."""
    deleting: bool = False
    """It has been deleted, and goes as soon as what it left on the cluster and in MLflow is closed."""
    spec: Annotated[JobSpec | dict[str, Any], Field(union_mode="left_to_right")]
    """As this release reads it; where it can't be read, as it is stored."""
    note: str | None = None
    """What of the job this release can't read, such as a spec of a newer one."""


class Page(Schema):
    """Jobs, newest first."""

    items: tuple[JobView, ...]
    next_cursor: str | None
    """Give it back for the next page; None at the end."""


class AttemptView(Schema):
    """One try at a job."""

    number: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    outcome: str | None
    """succeeded, failed, lost, paused or cancelled; None while it is open."""
    error: ErrorView | None


class Event(Schema):
    """Something that happened to a job."""

    id: int
    """Increases; what Last-Event-ID names."""
    job_id: str
    at: datetime
    type: str
    """transition, progress, metrics, frame, notice, waiting or deleted."""
    data: dict[str, Any]


class ProblemView(Schema):
    """What is wrong with one field."""

    pointer: str
    detail: str


class Validation(Schema):
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


class FrameList(Schema):
    """Film strips that a job has made so far."""

    steps: tuple[int, ...]
    """Iterations with a film strip, in order; `GET /jobs/{id}/frames/{step}` gives one."""


class PriorityChange(BaseModel):
    """Body of `PATCH /jobs/{id}`."""

    model_config = ConfigDict(extra="forbid")
    priority: int = Field(ge=-1000, le=1000, strict=True)
    """Higher goes first."""
