"""What the API answers with, where it is not a job (`service.use_cases` has those)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Box",
    "FieldError",
    "FrameList",
    "Health",
    "ModelRef",
    "ModelStatus",
    "PartStatus",
    "PixelStep",
    "PriorityChange",
    "Problem",
    "Readiness",
    "ReconstructionView",
    "StepView",
]


class Schema(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class FieldError(Schema):
    """What is wrong with one field of a request."""

    pointer: str | None = Field(None, examples=["#/model/steps"])
    """JSON pointer (RFC 6901) of the field in the body."""
    parameter: str | None = Field(None, examples=["limit"])
    """Name of the query parameter, header, path segment or multipart part, where it is not in a JSON body."""
    detail: str


class Problem(Schema):
    """Problem details (RFC 9457)."""

    type: str = Field(examples=["urn:seqae:problem:job-not-found"])
    title: str
    status: int
    detail: str
    instance: str = Field(examples=["/jobs/job_0123456789ab"])
    errors: tuple[FieldError, ...] | None = None


class Health(Schema):
    """The process runs."""

    status: Literal["ok"] = "ok"
    version: str


class PartStatus(Schema):
    """One part of the service."""

    ok: bool
    detail: str
    required: bool = True
    """A part that is not required does not count for being ready."""


class Readiness(Schema):
    """Whether jobs can be taken and run now."""

    ready: bool
    parts: dict[str, PartStatus]


class ModelRef(Schema):
    """A version in the model registry."""

    name: str
    version: str
    run_id: str
    job_id: str
    metrics: dict[str, float]


class ModelStatus(Schema):
    """What this process serves."""

    champion: ModelRef | None
    previous: ModelRef | None
    """The champion before, which `POST /models:rollback` goes back to."""
    pinned: bool
    """True after a rollback: the registry's champion is passed over until there is another one."""
    loaded: tuple[ModelRef, ...]
    """Others that were asked for lately."""
    detail: str


class PriorityChange(BaseModel):
    """Body of `PATCH /jobs/{id}`."""

    model_config = ConfigDict(extra="forbid")
    priority: int = Field(ge=-1000, le=1000)
    """Higher goes first."""


class FrameList(Schema):
    """Film strips that a job has made so far."""

    steps: tuple[int, ...]
    """Iterations with a film strip, in order; `GET /jobs/{id}/frames/{step}` gives one."""


class Box(Schema):
    """A window's edges, in pixels; it may reach over the edge of the picture."""

    left: float
    top: float
    right: float
    bottom: float


class PixelStep(Schema):
    """Where the model looked: lengths in pixels of one picture."""

    x: float
    """Column of the window's centre; 0 is the centre of the first pixel."""
    y: float
    """Row of the window's centre."""
    stride: float
    """delta, between two kernels of the window."""
    sigma: float
    """Standard deviation of a kernel."""
    window: Box


class StepView(PixelStep):
    """One write; lengths in pixels of the picture that was sent (as displayed: after EXIF rotation)."""

    gamma: float
    """Intensity."""
    error: float
    """Mean squared error of the canvas after this write; intensities are 0..1."""
    in_model: PixelStep
    """The same in pixels of the model's image."""


class ReconstructionView(Schema):
    """What the model made of a picture. Images are PNGs in base64."""

    model: ModelRef
    width: int
    """Width of the model's image."""
    height: int
    input: str
    """The picture as the model saw it."""
    frames: tuple[str, ...]
    """The canvas before the first write and after each: T + 1 of them."""
    steps: tuple[StepView, ...]
    error: tuple[float, ...]
    """Mean squared error of each frame."""
