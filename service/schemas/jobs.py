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
    """What the attempt is at: starting, data (making or reading it), training or finalizing."""
    iteration: int
    """Optimizer steps that are done."""
    iterations: int
    """Optimizer steps of the whole run; 0 while nobody knows."""
    epoch: float
    """Passes over the training images that are done."""
    epochs: float
    """Passes over the training images of the whole run."""
    loss: float | None = None
    """Training loss of the last report (no unit)."""
    val_mse: float | None = None
    """Mean squared error of the newest evaluation, on the images of `val`; intensities are 0..1."""
    images_per_second: float | None = None
    """Training images a second, over all workers."""
    eta_seconds: float | None = None
    """Seconds to the end of the run; None while nobody can know."""
    workers: int = 0
    """Workers that train now; 0 before they have started."""
    trials: dict[str, int] | None = None
    """A search's trials, counted by state."""
    best_trial: int | None = None
    """Number of the trial that would win a search now."""
    best_metrics: dict[str, float] | None = None
    """What that trial has of the metrics that the search improves."""
    comparisons_missing: int | None = None
    """Answers of people that a search by eye waits for before it goes on; None while it trains."""


class ErrorView(Schema):
    """Why a job failed, or why its last attempt was lost."""

    error_class: str = Field(alias="class")
    """What went wrong, in one word: decides whether another attempt is made unasked."""
    message: str
    """What went wrong, in a sentence."""


class ModelView(Schema):
    """The registered model that a job made."""

    name: str
    """Name of the registered model."""
    version: str
    """Number of the version that this job made."""


class PromotionView(Schema):
    """Whether a job's model became the champion of its name, and why."""

    promoted: bool
    """Whether it became the champion."""
    reason: str
    """Why, in a sentence."""
    against: str | None
    """The champion that it was compared with, as NAME/VERSION."""
    scores: dict[str, dict[str, float]]
    """Test metrics of `challenger` and `champion` on the same images, and their `difference`."""


class WaitingView(Schema):
    """What a job waits for that does not get further."""

    reason: str = Field(alias="for")
    """place: its turn in the queue. workers: a place on the cluster for them. comparisons: people who compare trials.
    cluster, mlflow, disk: that it works again. step: a step of the control plane that fails for this job and is
    repeated."""
    missing: str
    """What is missing, in words."""
    since: datetime
    """When it began to wait (UTC)."""
    position: int | None = None
    """Place in the queue, from 1, of `place`."""
    starts_in_seconds: float | None = None
    """A guess of the time until its turn, of `place`, by what the running jobs say they still need; null: nothing to go
    by."""


class JobView(Schema):
    """A job."""

    id: str
    """Identifies the job; `job_` and twelve letters or digits."""
    name: str
    """What people call it."""
    kind: str
    """What it does: train, tune, figure, evaluate or verify."""
    state: State
    """Where it is in its life."""
    desired: Desired
    """What was last asked for: run, pause or cancel."""
    owner: str
    """Who submitted it, as `Seqae-Owner` said; empty if nobody was named."""
    attempt: int
    """Number of the newest attempt; 0 before the first."""
    retries: int
    """Attempts after errors of the job's own."""
    losses: int
    """Attempts lost to infrastructure."""
    priority: int
    """Place in the queue, -1000 to 1000; higher goes first."""
    retry_of: str | None
    """The ended job that this one repeats."""
    created_at: datetime
    """When it was submitted (UTC)."""
    started_at: datetime | None
    """When its first attempt began to run (UTC); None before."""
    finished_at: datetime | None
    """When it ended (UTC); None before."""
    progress: ProgressView | None
    """How far it is; None before its first heartbeat."""
    error: ErrorView | None
    """Why it failed, or why its last attempt was lost; None without an error."""
    metrics: dict[str, float] | None
    """Final scores by name, such as `test/mse`; None until it has succeeded."""
    mlflow_url: str | None
    """Page of its run in MLflow; None before it has one."""
    model: ModelView | None
    """The registered model that it made; None before, or if it makes none."""
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
    """At most `limit` of them."""
    next_cursor: str | None
    """Give it back for the next page; None at the end."""


class AttemptView(Schema):
    """One try at a job."""

    number: int
    """Counted from 1; 0 is what it took over from the job that it repeats."""
    created_at: datetime
    """When it was admitted (UTC)."""
    started_at: datetime | None
    """Its first heartbeat (UTC); None before."""
    ended_at: datetime | None
    """When it ended (UTC); None before."""
    outcome: str | None
    """succeeded, failed, lost, paused or cancelled; None while it is open."""
    error: ErrorView | None
    """Why it failed or was lost; None without an error."""


class Event(Schema):
    """Something that happened to a job."""

    id: int
    """Increases; what Last-Event-ID names."""
    job_id: str
    """Of the job that it happened to."""
    at: datetime
    """When (UTC)."""
    type: str
    """transition, progress, metrics, frame, notice, waiting or deleted."""
    data: dict[str, Any]
    """What happened; the fields depend on `type`."""


class ProblemView(Schema):
    """What is wrong with one field."""

    pointer: str
    """JSON pointer (RFC 6901) of the field, such as `#/model/steps`."""
    detail: str
    """What is wrong, in words."""


class Validation(Schema):
    """What would happen to a spec, without doing it."""

    accepted: bool
    """Whether `POST /jobs` would take it now."""
    problems: tuple[ProblemView, ...]
    """Why it would be refused."""
    warnings: tuple[str, ...]
    """What can't be known now, such as a cluster that does not answer."""
    spec: AnySpec
    """The spec with every default filled in."""
    workers: int
    """Workers that would train at once, on the cluster as it is now."""
    cpus: float
    """CPUs that all workers take together."""
    gpus: float
    """GPUs that all workers take together."""
    iterations: int
    """Optimizer steps, of one trial in a search."""
    seconds: float | None
    """About how many seconds it would train, from jobs of the same model and size that ran here; None without one."""
    memory_bytes: int
    """About how much memory all workers would take, in bytes."""


class FrameList(Schema):
    """Film strips that a job has made so far."""

    steps: tuple[int, ...]
    """Iterations with a film strip, in order; `GET /jobs/{id}/frames/{step}` gives one."""


class PriorityChange(BaseModel):
    """Body of `PATCH /jobs/{id}`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    priority: int = Field(ge=-1000, le=1000, strict=True)
    """Higher goes first."""
