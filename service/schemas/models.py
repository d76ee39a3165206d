"""Wire models of registered models and of reconstructions."""

from enum import StrEnum

from service.schemas.base import Schema

__all__ = ["Box", "MediaType", "ModelRef", "ModelStatus", "PixelStep", "ReconstructionView", "StepView"]


class MediaType(StrEnum):
    """What a reconstruction can be answered as; earlier ones win where the client doesn't mind."""

    JSON = "application/json"
    GIF = "image/gif"
    """An animation: the canvas after each write."""
    PNG = "image/png"
    """A film strip."""
    NPZ = "application/x-npz"
    """Arrays, for NumPy."""


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
