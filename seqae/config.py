"""Settings of a training run. Each stands once: request field, MLflow param, checkpoint content, and what builds it.

All models are frozen and refuse unknown fields. Lengths are in pixels unless a field says otherwise; coordinates are
0-indexed. "Eq." and "Table" refer to the paper (see README.md).
"""

from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

__all__ = [
    "NO_NULL",
    "AttentionConfig",
    "BackgroundConfig",
    "CoderConfig",
    "Config",
    "DataConfig",
    "GrowthStep",
    "ImagesConfig",
    "LocalizerConfig",
    "LossConfig",
    "MnistScenesConfig",
    "ModelConfig",
    "ScheduleConfig",
    "SpritesConfig",
    "TetrominoesConfig",
    "TrainConfig",
    "field_error",
    "image_settings",
]


NO_NULL = r"^[^\x00]*$"
"""Pattern of a text without the null character, which no file system and not every database takes."""


def field_error(pointer: str, message: str) -> PydanticCustomError:
    """A validation error about one field below the model that raises it.

    Args:
        pointer: path of the field from that model, parts joined by "/", such as "attention/kernel_size".
        message: what is wrong, in words.
    """
    # Braces would be read as a template by pydantic.
    return PydanticCustomError("value_error", "{message}", {"message": message, "pointer": pointer})


def _check_order(config: BaseModel, *bounds: tuple[str, str]) -> None:
    """Refuses a lower bound that is larger than its upper one; `bounds` names the fields of each pair."""
    for low, high in bounds:
        if getattr(config, low) > getattr(config, high):
            raise field_error(low, f"{low} is larger than {high}")


class Config(BaseModel):
    """Base of all settings: frozen, no unknown fields, no NaN or infinity, and numbers that are numbers.

    Every number has a lower and an upper bound, and every field a docstring, which is its text in the JSON schema and
    at `/docs`; tests walk them all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, given: Any, info: ValidationInfo) -> Any:
        """Refuses `true` and texts where a number is asked for, which pydantic would convert."""
        if info.field_name is None or not _asks_for_numbers(cls, info.field_name):
            return given
        if _is_no_number(given):
            or_else = ", or: must be an object" if _takes_an_object(cls, info.field_name) else ""
            raise PydanticCustomError("number_type", f"must be a number{or_else}")
        if isinstance(given, list | tuple):
            for at, item in enumerate(given):
                if _is_no_number(item):
                    raise field_error(str(at), "must be a number")
        return given


def _is_no_number(given: Any) -> bool:
    return isinstance(given, bool | str | bytes)


@cache
def _asks_for_numbers(model: type[BaseModel], field: str) -> bool:
    """Whether a field is a number or a list of numbers, and neither a truth value nor a text."""
    kinds = _kinds(model.model_fields[field].annotation)
    return bool(kinds & {int, float}) and not kinds & {bool, str}


@cache
def _takes_an_object(model: type[BaseModel], field: str) -> bool:
    return any(issubclass(kind, BaseModel) for kind in _kinds(model.model_fields[field].annotation))


def _kinds(annotation: Any) -> set[type]:
    """Types that an annotation is made of; of a literal the types of its values."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    arguments = get_args(annotation)
    if not arguments:
        return {annotation} if isinstance(annotation, type) else set()
    return {kind for argument in arguments for kind in _kinds(argument)}


class AttentionConfig(Config):
    """The soft-attention window: an N x N grid of Gaussian kernels (Eq. 7-12)."""

    kernel_size: int = Field(25, ge=8, le=256)
    """N, kernels along one side of the grid; a patch is N x N."""

    delta_min: float = Field(0.37, ge=0.01, le=64)
    """Smallest stride between two kernels, in pixels."""

    delta_max: float = Field(1.16, ge=0.01, le=64)
    """Largest stride, in pixels. N = 25 and 1.16 make a window 28 pixels wide: about one digit."""

    sigma: Literal["tied", "free"] = "tied"
    """"tied": sigma is a share of delta, which rules out the comb of sigma << delta. "free": sigma is in pixels."""

    sigma_min: float = Field(0.4, ge=0.01, le=64)
    """Smallest sigma: a share of delta when tied, else pixels."""

    sigma_max: float = Field(0.8, ge=0.01, le=64)
    """Largest sigma: a share of delta when tied, else pixels."""

    log_gamma_max: float = Field(0.0, ge=0, le=5)
    """Bound on abs(log gamma), the intensity of Eq. 11 and 12; 0 fixes gamma at 1."""

    write_gain: Literal["paper", "unit"] = "paper"
    """"paper": Eq. 12, which returns x / delta^2 from Write(Read(x)). "unit": times delta^2, which returns x."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        _check_order(self, ("delta_min", "delta_max"), ("sigma_min", "sigma_max"))
        return self


class LocalizerConfig(Config):
    """The localization network (Eq. 2): error image in, five attention parameters out."""

    kind: Literal["seeker", "small", "improved"] = "seeker"
    """"seeker": a peak of the error map with a softmax around it. "small": Figure 2. "improved": Table 3."""

    centre: Literal["tanh", "clamp"] = "tanh"
    """How "small" and "improved" keep a window's centre on the image. "tanh": squashed. "clamp": cut off at the edge,
    where it has no gradient. The seeker's is a place on the image."""

    sizes: tuple[Annotated[int, Field(ge=4, le=252)], ...] = Field((20,), min_length=1, max_length=8)
    """Sides of the squares that objects may fill, in pixels: odd multiples of 4, growing. The window's stride is scaled
    by the size found / 20, so its bounds are those of an object of 20 pixels, as MNIST's digits are. Only the seeker
    looks for sizes."""

    scale: Literal["expected", "chosen"] = "expected"
    """What a seeker of several sizes scales its window by. "expected": the mean of the sizes near the peak, weighted as
    places are. "chosen": the size of the peak, with the gradient of the mean."""

    support: bool = False
    """Whether a seeker also considers the square around the error that hangs together with its peak, from 0.75 of the
    smallest of `sizes` to 1.15 of the largest, and takes it where it explains more than the square of its own."""

    @model_validator(mode="after")
    def _sizes_are_ordered(self) -> Self:
        for at, size in enumerate(self.sizes):
            if size % 8 != 4:  # a square has a cell in its middle
                raise field_error(f"sizes/{at}", f"{size} is not an odd multiple of 4")
            if at and size <= self.sizes[at - 1]:
                raise field_error(f"sizes/{at}", "sizes must grow")
        return self


class CoderConfig(Config):
    """The region coder (Eq. 4-5): patch in, code, patch out."""

    kind: Literal["autoencoder", "variational"] = "autoencoder"
    """"autoencoder": Table 1. "variational": the same with a Gaussian code, from which scenes can be sampled."""

    bottleneck: int = Field(256, ge=1, le=8192)
    """Length of the code z, in numbers."""


class BackgroundConfig(Config):
    """The background network (Table 2): an image-level auto-encoder that paints the canvas of step 0."""

    bottleneck: int = Field(16, ge=1, le=4096)
    """Length of its code, in numbers."""


class ModelConfig(Config):
    """The sequential auto-encoder (Eq. 1-6)."""

    height: int = Field(64, ge=8, le=1024)
    """Image height H, in pixels."""

    width: int = Field(64, ge=8, le=1024)
    """Image width W, in pixels."""

    channels: Literal[1, 3] = 1
    """1 for grey, 3 for colour."""

    steps: int = Field(6, ge=1, le=64)
    """T, writes onto the canvas."""

    attention: AttentionConfig = AttentionConfig()
    """The window of each write."""

    localizer: LocalizerConfig = LocalizerConfig()
    """The network that places the window."""

    coder: CoderConfig = CoderConfig()
    """The network that makes a patch of what the window shows."""

    background: BackgroundConfig | None = None
    """Network that paints the canvas before the first write; None starts from an empty one, as black scenes do."""

    @model_validator(mode="after")
    def _grid_fits_the_image(self) -> Self:
        side = min(self.height, self.width)
        if self.attention.kernel_size > side:
            message = f"kernel_size {self.attention.kernel_size} is larger than the image's side of {side} pixels"
            raise field_error("attention/kernel_size", message)
        return self


class MnistScenesConfig(Config):
    """MNIST-Scenes: handwritten digits placed on a black image, made from a seed."""

    kind: Literal["mnist_scenes"] = "mnist_scenes"
    """Tells this kind of data from the others."""

    digits: Literal["bundled", "mnist"] = "bundled"
    """"bundled": scikit-learn's 1,797 digits, on every machine. "mnist": the real 70,000, found or downloaded."""

    train_scenes: int = Field(10_000, ge=1, le=1_000_000)
    """Scenes that the model learns from."""

    val_scenes: int = Field(1_000, ge=1, le=100_000)
    """Scenes that checkpoints, trials and thresholds are chosen on, of digits that the training scenes never show."""

    test_scenes: int = Field(2_000, ge=1, le=100_000)
    """Scenes of the final scores, of test digits; nothing is chosen on them."""

    min_digits: int = Field(1, ge=0, le=16)
    """Fewest digits in a scene."""

    max_digits: int = Field(4, ge=1, le=16)
    """Most digits in a scene."""

    min_scale: float = Field(1.0, ge=0.25, le=4)
    """Smallest side of a digit, as a share of MNIST's 28 pixels."""

    max_scale: float = Field(1.0, ge=0.25, le=4)
    """Largest side of a digit, likewise."""

    max_overlap: float = Field(0.0, ge=0, le=1)
    """Largest share of a digit's box that another digit's box may cover; 0 keeps the boxes apart."""

    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Makes the scenes; the run's own seed does not change them, so that runs compare on the same scenes."""

    background: Literal["black", "texture"] = "black"
    """"texture": waves of random direction, length and colour behind the digits, another in each scene."""

    train_labels: tuple[Annotated[int, Field(ge=0, le=9)], ...] = Field(tuple(range(10)), min_length=1, max_length=10)
    """Digits that the scenes of `train` show, in ascending order: 0 to 7 keep 8 and 9 for never-seen objects."""

    test_labels: tuple[Annotated[int, Field(ge=0, le=9)], ...] = Field(tuple(range(10)), min_length=1, max_length=10)
    """Digits that the scenes of `val` and `test` show, in ascending order."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        _check_order(self, ("min_digits", "max_digits"), ("min_scale", "max_scale"))
        for field in ("train_labels", "test_labels"):
            for at, (before, after) in enumerate(pairwise(getattr(self, field)), start=1):
                if after <= before:
                    raise field_error(f"{field}/{at}", "digits must be in ascending order, each once")
        return self


class SpritesConfig(Config):
    """Sprites: coloured squares, ellipses and hearts that hide parts of each other, made from a seed."""

    kind: Literal["sprites"] = "sprites"
    """Tells this kind of data from the others."""

    train_scenes: int = Field(10_000, ge=1, le=1_000_000)
    """Scenes that the model learns from."""

    val_scenes: int = Field(1_000, ge=1, le=100_000)
    """Scenes that checkpoints, trials and thresholds are chosen on."""

    test_scenes: int = Field(2_000, ge=1, le=100_000)
    """Scenes of the final scores; nothing is chosen on them."""

    min_objects: int = Field(2, ge=0, le=16)
    """Fewest sprites in a scene."""

    max_objects: int = Field(5, ge=1, le=16)
    """Most sprites in a scene."""

    min_size: int = Field(14, ge=4, le=1024)
    """Smallest side, in pixels, of the square in which a sprite may turn."""

    max_size: int = Field(26, ge=4, le=1024)
    """Largest side of it, in pixels."""

    max_hidden: float = Field(0.5, ge=0, le=0.95)
    """Largest share of a sprite that others may hide; 0 lets none overlap."""

    background: Literal["black", "uniform", "texture"] = "black"
    """"uniform": one dark colour, another in each scene. "texture": waves, likewise."""

    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Makes the scenes; the run's own seed does not change them, so that runs compare on the same scenes."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        _check_order(self, ("min_objects", "max_objects"), ("min_size", "max_size"))
        return self


class TetrominoesConfig(Config):
    """Tetrominoes: pieces of four squares in six colours that do not overlap, made from a seed; best at 35 x 35."""

    kind: Literal["tetrominoes"] = "tetrominoes"
    """Tells this kind of data from the others."""

    train_scenes: int = Field(10_000, ge=1, le=1_000_000)
    """Scenes that the model learns from."""

    val_scenes: int = Field(1_000, ge=1, le=100_000)
    """Scenes that checkpoints, trials and thresholds are chosen on."""

    test_scenes: int = Field(2_000, ge=1, le=100_000)
    """Scenes of the final scores; nothing is chosen on them."""

    pieces: int = Field(3, ge=1, le=16)
    """Pieces in a scene."""

    block: int = Field(5, ge=1, le=256)
    """Side of each of a piece's four squares, in pixels."""

    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Makes the scenes; the run's own seed does not change them, so that runs compare on the same scenes."""


class ImagesConfig(Config):
    """A folder of images, in COCO's layout or not: the largest centred square of each, resized to the model's size."""

    kind: Literal["images"] = "images"
    """Tells this kind of data from the others."""

    path: str = Field(min_length=1, max_length=4096, pattern=NO_NULL)
    """Folder with images below it. Relative paths start at the data folder (SEQAE_DATA_DIR); what lies outside of that
    and of the further roots (SEQAE_DATA_ROOTS), links followed, is refused. Files are known by suffix or first bytes;
    those that can't be read are skipped and named. Grey of 16 bits is 0..65,535, floats are 0..1, whatever the largest
    value."""

    annotations: str | None = Field(None, min_length=1, max_length=4096, pattern=NO_NULL)
    """COCO instances JSON, for evaluation only; its path is treated as `path` is. Entries that can't be used are
    skipped, counted and named; annotations of another size than the file's are scaled."""

    train_images: int = Field(40_000, ge=1, le=10_000_000)
    """At most so many images train; where fewer exist, one in eleven is kept for `val` and one in eleven for `test`."""

    val_images: int = Field(4_000, ge=1, le=1_000_000)
    """At most so many images, that checkpoints, trials and thresholds are chosen on."""

    test_images: int = Field(4_000, ge=1, le=1_000_000)
    """At most so many images, of the final scores; nothing is chosen on them."""

    crop: float = Field(0.0, ge=0, le=0.9)
    """Largest share of a training image's sides that is cut off, another part each time it is seen; what is left is
    enlarged to the model's size. 0 leaves images whole."""

    flip: bool = False
    """Whether training mirrors every second image, left to right, by chance each time it is seen."""


def image_settings(data: "DataConfig") -> dict[str, Any]:
    """The settings that decide which images there are, as plain values: all but how training varies them.

    Caches of data are known by these.
    """
    return data.model_dump(mode="json", exclude={"crop", "flip"})


def _data_kind(given: Any) -> str:
    kind = given.get("kind", "mnist_scenes") if isinstance(given, dict) else getattr(given, "kind", None)
    return str(kind)


DataConfig = Annotated[
    Annotated[MnistScenesConfig, Tag("mnist_scenes")]
    | Annotated[ImagesConfig, Tag("images")]
    | Annotated[SpritesConfig, Tag("sprites")]
    | Annotated[TetrominoesConfig, Tag("tetrominoes")],
    Discriminator(_data_kind),
]


class LossConfig(Config):
    """Eq. 13-15. All errors are means over pixels, so the weights do not depend on the image size."""

    alpha_region: float = Field(0.0, ge=0, le=1e6)
    """Weight of the region loss; the paper has one. On pasted images `alpha_separation` asks for the same and more."""

    region_target: Literal["error", "image"] = "error"
    """What a write is compared with. "image": the original, as the paper has it, which asks every later visit to write
    the whole object again. "error": what was still missing; the same where the canvas is empty."""

    region_moves_window: bool = False
    """Whether the region loss against the image moves the window, too, as in the paper's literal setting. Windows are
    then rewarded for looking where there is nothing to write."""

    alpha_mseot: float = Field(10.0, ge=0, le=1e6)
    """Weight of MSEOT (Eq. 14)."""

    mseot_weights: Literal["t-1", "t"] = "t-1"
    """What the weight of the canvas after t writes is the square of. "t-1": Eq. 14, where the first write has none."""

    mseot_normalized: bool = True
    """Whether MSEOT's weights are divided by their sum, so that T does not change the loss's scale; Eq. 14 does not."""

    alpha_separation: float = Field(8.0, ge=0, le=1e6)
    """Weight of writing an object as if the one that was pasted beside it were not there (not in the paper)."""

    separation_target: Literal["window", "object"] = "window"
    """What an object beside a pasted one is compared with. "window": all that its window showed. "object": without the
    pixels at which another write of the image is stronger, where digits overlap the neighbour's ink."""

    alpha_location: float = Field(0.05, ge=0, le=1e6)
    """Weight of finding one of the two objects, and no place between them (not in the paper)."""

    alpha_presence: float = Field(0.02, ge=0, le=1e6)
    """Price of a write that does something, by which few do (not in the paper); for an image it is due by the share of
    its error that the writes have taken away."""

    beta: float = Field(1e-4, ge=0, le=1e6)
    """Weight of the divergence of a write's code from the unit Gaussian, in nats; the mean over an image's writes is
    weighted by how present they are. Only the variational coder has one."""

    @property
    def pastes(self) -> bool:
        """Whether training composes images out of what was found in others."""
        return self.alpha_separation > 0 or self.alpha_location > 0


class GrowthStep(Config):
    """Progressive training (2.6): from `iteration` on the model makes `steps` writes."""

    iteration: int = Field(ge=0, le=2**31 - 1)
    """First iteration with so many writes, counted from 0."""

    steps: int = Field(ge=1, le=64)
    """T from then on, writes onto the canvas."""


class ScheduleConfig(Config):
    """How long and how fast to train, and how often to look."""

    batch_size: int = Field(25, ge=1, le=65_536)
    """Images in one optimizer step, over all workers together."""

    epochs: float = Field(5.0, ge=1e-6, le=100_000)
    """Passes over the training images; a part of one is allowed."""

    learning_rate: float = Field(4e-3, ge=1e-9, le=10)
    """Peak of the one-cycle schedule of Adam."""

    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the iterations in which the learning rate rises."""

    grad_clip: float = Field(5.0, ge=1e-6, le=1e6)
    """Largest norm of the gradient."""

    growth: tuple[GrowthStep, ...] = Field((), max_length=64)
    """Progressive training: T grows at these iterations. Empty: all of `model.steps` from the start."""

    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Arithmetic of the convolutions and matrix products; the attention and the losses stay in float32. "auto": one
    worker measures both for a few seconds at its start, if the run is long enough, and takes bfloat16 where it is
    faster by a tenth; several workers take float32. The log says what was chosen and why."""

    compile: Literal["off", "default", "reduce-overhead", "auto"] = "off"
    """torch.compile of the model and its loss, by its mode; "reduce-overhead" makes CUDA graphs on a GPU. The first
    iteration, and the first at each T, takes a minute longer; on a CPU it needs a C++ compiler. Results are the same
    to rounding. "auto": one worker compiles if what is left of the run, by the measured time of its steps, repays it;
    several do not."""

    checkpoint_activations: bool = False
    """Keep only each step's canvas and records for the backward pass, which makes the rest again: memory grows slower
    with T, for a third more time. Results are the same. A compiled step chooses by itself what to keep."""

    log_every: int = Field(10, ge=1, le=1_000_000_000)
    """Iterations between two reports of progress."""

    evaluate_every: int = Field(200, ge=1, le=1_000_000_000)
    """Iterations between two evaluations on the images of `val`; the end is always evaluated."""

    evaluate_scenes: int = Field(500, ge=1, le=1_000_000)
    """At most so many images of `val` are used in an evaluation; the final one, on `test`, uses all of that."""

    checkpoint_every: int = Field(200, ge=1, le=1_000_000_000)
    """Iterations between two checkpoints; the end always makes one."""

    def iterations(self, train_images: int) -> int:
        """Optimizer steps of a whole run.

        Args:
            train_images: size of the training set.
        """
        return max(1, round(self.epochs * train_images / self.batch_size))


# What `preset: paper` stands for; a field that the request gives as well wins over these.
_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "model": {
            "steps": 5,
            "attention": {
                "delta_min": 0.22,
                "delta_max": 2.7,
                "sigma": "free",
                "sigma_min": 0.16,
                "sigma_max": 3.1,
                "log_gamma_max": 1.0,
            },
            "localizer": {"kind": "small"},
        },
        "loss": {
            "alpha_region": 1.0,
            "region_target": "image",
            "region_moves_window": True,
            "alpha_separation": 0.0,
            "alpha_location": 0.0,
            "alpha_presence": 0.0,
        },
        "schedule": {"learning_rate": 1e-3, "epochs": 250},
    },
}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        given = value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        merged[key] = _merge(below, given) if isinstance(below, dict) and isinstance(given, dict) else value
    return merged


class TrainConfig(Config):
    """One training run of the model. Everything that decides its result is here."""

    preset: Literal["seeker", "paper"] = "seeker"
    """Where defaults come from. "paper" is the paper's literal setting; fields given beside it still count."""

    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Of the weights, the order of the images, and what is drawn while training."""

    data: DataConfig = MnistScenesConfig()
    """Images to learn from, told apart by `kind`."""

    model: ModelConfig = ModelConfig()
    """What the network is made of."""

    loss: LossConfig = LossConfig()
    """What training minimises, and by which weights."""

    schedule: ScheduleConfig = ScheduleConfig()
    """Length and speed of training, and how often it evaluates and saves."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        preset = _PRESETS.get(str(given.get("preset"))) if isinstance(given, dict) else None
        return _merge(preset, given) if preset else given

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        growth = self.schedule.growth
        for at, (before, after) in enumerate(pairwise(growth), start=1):
            if after.iteration <= before.iteration or after.steps < before.steps:
                raise field_error(f"schedule/growth/{at}", "growth must go up, in iteration and in steps")
        for at, step in enumerate(growth):
            if step.steps > self.model.steps:
                raise field_error(f"schedule/growth/{at}/steps", f"more than model.steps ({self.model.steps})")
        if growth and growth[-1].steps < self.model.steps:
            # The model would be used with more writes than it was ever trained for.
            raise field_error(f"schedule/growth/{len(growth) - 1}/steps", f"less than model.steps ({self.model.steps})")
        self._check_objects_fit()
        return self

    def _check_objects_fit(self) -> None:
        match self.data:
            case MnistScenesConfig(max_scale=scale):
                field, what, side = "max_scale", "digit", round(28 * scale)
            case SpritesConfig(max_size=side):
                field, what = "max_size", "sprite"
            case TetrominoesConfig(block=block):
                field, what, side = "block", "piece", 4 * block
            case _:
                return
        if side > min(self.model.height, self.model.width):
            raise field_error(f"data/{field}", f"a {what} {side} pixels wide does not fit into the image")

    def bare(self) -> "TrainConfig":
        """The same settings without what a subclass adds: what a checkpoint stores."""
        return TrainConfig.model_construct(**{name: getattr(self, name) for name in TrainConfig.model_fields})
