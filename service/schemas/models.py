"""Wire models of registered models and of reconstructions."""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from service.schemas.base import Schema
from service.schemas.jobs import PromotionView

__all__ = [
    "Box",
    "Invert",
    "MediaType",
    "ModelRef",
    "ModelStatus",
    "MoveRequest",
    "MoveView",
    "PixelStep",
    "ReconstructionView",
    "RegisteredModelView",
    "StepView",
    "VersionView",
]


class MediaType(StrEnum):
    """What a reconstruction can be answered as; earlier ones win where the client doesn't mind."""

    JSON = "application/json"
    GIF = "image/gif"
    """An animation: the canvas after each write."""
    PNG = "image/png"
    """A film strip."""
    NPZ = "application/x-npz"
    """Arrays, for NumPy."""


class Invert(StrEnum):
    """Whether black and white are exchanged before the model sees a picture."""

    FALSE = "false"
    """The picture is taken as it is."""
    TRUE = "true"
    """They are exchanged."""
    AUTO = "auto"
    """They are exchanged where the picture's border is bright and the model was trained on a black background."""


class ModelRef(Schema):
    """A version in the model registry."""

    name: str
    """Of the registered model."""
    version: str
    """Its number, counted from 1."""
    run_id: str
    """MLflow run of the job that made it."""
    job_id: str
    """Job that made it."""
    metrics: dict[str, float]
    """Final scores by name, such as `test/mse`."""


class VersionView(Schema):
    """A version of a registered model."""

    version: str
    """Its number, counted from 1."""
    run_id: str
    """MLflow run that made it."""
    job_id: str | None
    """None: it was not made here, and is never served."""
    metrics: dict[str, float]
    """Final scores by name, such as `test/mse`."""
    aliases: tuple[str, ...]
    """champion, challenger, previous, and what people have set in MLflow."""
    created_at: datetime | None
    """When it was registered (UTC); None if the registry does not say."""
    promotion: PromotionView | None
    """What was decided when its job ended."""


class MoveView(Schema):
    """A move of the champion's alias."""

    version: str
    """Version that became the champion."""
    who: str
    """Empty: the promotion rule."""
    why: str
    """The reason given."""
    at: datetime
    """When (UTC)."""


class RegisteredModelView(Schema):
    """A registered model: its versions, which of them is served, and how it came to that."""

    name: str
    """By which `/reconstruct?model=` asks for it."""
    champion: str | None
    """Version that is served."""
    challenger: str | None
    """The newest version that was not promoted."""
    previous: str | None
    """The champion before, which a rollback goes back to."""
    versions: tuple[VersionView, ...]
    """Newest first."""
    history: tuple[MoveView, ...]
    """Newest first."""


class MoveRequest(BaseModel):
    """Body of a promotion or a rollback."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    why: str = Field("", max_length=500)
    """Reason, for whoever reads the history."""


class ModelStatus(Schema):
    """What this process serves, and what the registry has."""

    champion: ModelRef | None
    """Served where no model is named; None before there is one."""
    previous: ModelRef | None
    """The champion before, which `POST /models:rollback` goes back to, where it is still loaded."""
    pinned: bool = False
    """Always false: a rollback moves the registry's alias."""
    loaded: tuple[ModelRef, ...]
    """Others that were asked for lately."""
    detail: str
    """What the process is at with its models, in words."""
    models: tuple[RegisteredModelView, ...] = ()
    """All registered models; none while the registry does not answer."""


class Box(Schema):
    """A window's edges, in pixels; it may reach over the edge of the picture."""

    left: float
    """Column of the left edge, in pixels."""
    top: float
    """Row of the upper edge, in pixels."""
    right: float
    """Column of the right edge, in pixels."""
    bottom: float
    """Row of the lower edge, in pixels."""


class PixelStep(Schema):
    """Where the model looked: lengths in pixels of one picture."""

    x: float
    """Column of the window's centre, in pixels; 0 is the centre of the first one."""
    y: float
    """Row of the window's centre, in pixels."""
    stride: float
    """delta, pixels between two kernels of the window."""
    sigma: float
    """Standard deviation of a kernel, in pixels."""
    window: Box
    """What the kernels tile."""


class StepView(PixelStep):
    """One write; lengths in pixels of the picture that was sent (as displayed: after EXIF rotation)."""

    gamma: float
    """Intensity, by which what is read is multiplied (no unit)."""
    error: float
    """Mean squared error of the canvas after this write; intensities are 0..1."""
    in_model: PixelStep
    """Where that is in pixels of the model's image."""
    active: bool = False
    """Whether the write may own pixels: it has enough of the energy of all writes, as one of an object has."""
    pixels: int = 0
    """How many pixels of the model's image belong to it, see `owners`."""


class ReconstructionView(Schema):
    """What the model made of a picture. Images are PNGs in base64."""

    model: ModelRef
    """The version that did it."""
    width: int
    """Width of the model's image, in pixels."""
    height: int
    """Height of the model's image, in pixels."""
    input: str
    """The picture as the model saw it, a PNG in base64."""
    frames: tuple[str, ...]
    """The canvas before the first write and after each, T + 1 PNGs in base64."""
    steps: tuple[StepView, ...]
    """The writes, in order: T of them."""
    error: tuple[float, ...]
    """Mean squared error of each frame, T + 1 of them; intensities are 0..1."""
    owners: str = ""
    """The write that each pixel of the model's image belongs to: a grey PNG in base64, whose values are the numbers of
    the steps, from 1 on, and 0 for the background."""
    explained: float | None = None
    """Share of the picture that was rebuilt: 1 - last error / error of an empty canvas. 1 is all, 0 nothing, below 0
    worse than nothing; None for a black picture."""
    inverted: bool = False
    """Whether black and white were exchanged, see the parameter `invert`."""
    warnings: tuple[str, ...] = ()
    """What speaks against trusting the answer, in words: little was explained, much was cropped off, or the picture
    looks unlike the training data. Other media types have it as a JSON list in the header `Seqae-Warnings`."""
