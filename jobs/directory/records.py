"""Records of the job folder, one pydantic model for each file or line of a file.

Some fields have another name in JSON than in Python. They can be constructed by either, and are written under the JSON
name, so a dump must ask for `by_alias=True`. Records that are kept up to date field by field are not frozen.

A file may be another release's: fields that are not known are left out, and a word that is not known counts as the one
that decides least.
"""

from enum import StrEnum
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from jobs.errors import ErrorClass

__all__ = [
    "Control",
    "CrossEvaluation",
    "DatasetRecord",
    "EvaluationReport",
    "Failure",
    "MetricRow",
    "Note",
    "NoteKind",
    "Outcome",
    "PerImageScores",
    "Phase",
    "Progress",
    "Result",
    "SearchReport",
    "Shipped",
    "TrialRow",
    "TrialState",
    "Want",
]


_EnumT = TypeVar("_EnumT", bound=StrEnum)

_MOST = 2**53
"""Larger counts are taken for damage."""


class _Record(BaseModel):
    """Base of the records, which another release may have written: unknown fields are left out. No NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)


def _known_or(default: _EnumT) -> BeforeValidator:
    """Reads a word that this release does not know as another one."""
    known = tuple(type(default))

    def read(given: Any) -> Any:
        return given if not isinstance(given, str) or given in known else default

    return BeforeValidator(read)


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PAUSED = "paused"
    CANCELLED = "cancelled"


class Want(StrEnum):
    """What the control plane wants of the newest attempt."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"

    @property
    def outcome(self) -> Outcome | None:
        """How an attempt ends that stops because of it; None for RUN, which stops no attempt."""
        match self:
            case Want.RUN:
                return None
            case Want.PAUSE:
                return Outcome.PAUSED
            case Want.CANCEL:
                return Outcome.CANCELLED


class Control(_Record):
    """control.json, written by the control plane only."""

    attempt: int = Field(ge=0)
    """The newest attempt."""
    want: Annotated[Want, _known_or(Want.RUN)] = Want.RUN

    def fences(self, attempt: int) -> bool:
        """Whether an attempt is fenced: a newer one exists, so it must stop and commit nothing."""
        return self.attempt > attempt

    def stops(self, attempt: int) -> bool:
        """Whether an attempt must stop, because it is fenced or because a pause or the end is wanted."""
        return self.want is not Want.RUN or self.fences(attempt)


class Phase(StrEnum):
    """What an attempt is at."""

    STARTING = "starting"
    DATA = "data"
    TRAINING = "training"
    EVALUATING = "evaluating"
    """An evaluation job looks at its images."""
    FINALIZING = "finalizing"


class TrialState(StrEnum):
    """State of a trial of a search."""

    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"
    """Stopped early by the search; its model may still win."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether the trial will not run again."""
        return self.has_model or self is TrialState.FAILED

    @property
    def has_model(self) -> bool:
        """Whether the trial's model may be the search's result."""
        return self in (TrialState.STOPPED, TrialState.SUCCEEDED)


def _known_states(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    return {key: count for key, count in given.items() if key in tuple(TrialState)}


class Progress(_Record):
    """progress.json. Counts are of this run as a whole, not of this attempt."""

    model_config = ConfigDict(frozen=False)

    time: float
    """When this was written, seconds since 1970: the heartbeat."""
    last_progress_at: float = Field(alias="moved_at")
    """When the work last moved on, seconds since 1970. A heartbeat without it is a stall. In JSON: `moved_at`."""
    phase: Annotated[Phase, _known_or(Phase.TRAINING)]
    iteration: int = Field(0, ge=0, le=_MOST)
    iterations: int = Field(0, ge=0, le=_MOST)
    epoch: float = 0.0
    epochs: float = 0.0
    loss: float | None = None
    val_mse: float | None = Field(None, validation_alias=AliasChoices("val_mse", "test_mse"))
    """Of the newest evaluation. An older release's driver writes `test_mse`."""
    images_per_second: float | None = None
    eta_seconds: float | None = None
    workers: int = Field(0, ge=0, le=_MOST)
    """Workers that train now; an elastic run may have fewer than it may use."""
    trials: Annotated[dict[TrialState, int] | None, BeforeValidator(_known_states)] = None
    """A search's trials, counted by state."""
    best_trial: int | None = None
    """The trial that would win a search now."""
    best_metrics: dict[str, float] | None = None
    """What that trial has of the metrics that the search improves."""
    comparisons_missing: int | None = Field(None, ge=0, le=_MOST)
    """Answers of people that a search by eye waits for before it goes on; None while it trains, and of other jobs."""


class Failure(_Record):
    """The error of a failed attempt."""

    error_class: Annotated[ErrorClass, _known_or(ErrorClass.INTERNAL)] = Field(alias="class")
    """In JSON: `class`."""
    message: str


class Result(_Record):
    """result.json."""

    outcome: Outcome
    error: Failure | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    checkpoint: str | None = None
    """The model to register, relative to the job's folder."""
    iterations: int = 0
    evaluation_set: str | None = None
    """Names the scenes behind `metrics`: results compare only where it is the same."""


class NoteKind(StrEnum):
    """What a note is about."""

    CHECKPOINT_DAMAGED = "checkpoint_damaged"
    """A checkpoint is damaged and was skipped."""
    CHECKPOINT_FAILED = "checkpoint_failed"
    """A checkpoint could not be written."""
    WORKERS_LOST = "workers_lost"
    """Workers were lost and are started again."""
    RESUMED = "resumed"
    """Training goes on from a checkpoint."""
    FENCED = "fenced"
    """The attempt stops because a newer one exists."""
    DATA = "data"
    """Which data the attempt trains on, in words."""
    FIGURE_LEFT_OUT = "figure_left_out"
    """A figure can't be made of the model that is evaluated, or of a search's trials."""
    PREEMPTED = "preempted"
    """A worker was told that its machine is about to be taken away."""
    OUT_OF_MEMORY = "out_of_memory"
    """Memory ran out, and batches are computed in smaller pieces."""
    DIVERGED = "diverged"
    """Training diverged, and goes on from before that with half the learning rate."""
    SLOW_WORKER = "slow_worker"
    """A worker is much slower than the others."""
    STARTED_FROM = "started_from"
    """Training starts from another model's weights."""
    IDLE_GPU = "idle_gpu"
    """A worker's GPU is hardly used."""
    GPU_ERRORS = "gpu_errors"
    """A GPU's memory has errors that could not be corrected."""
    RETRAINING = "retraining"
    """A search trains its best trial's settings once more."""


class DatasetRecord(_Record):
    """data.json: the data set that an attempt works on."""

    name: str
    """Short, for people: the kind of scenes, or the folder's name."""
    source: str
    """In words: which digits or which folder, and how many files were skipped."""
    location: str
    """The folder as the spec has it; of scenes that are made, what makes them."""
    checksum: str
    """Of all content; equal for equal data."""
    test_checksum: str
    """Of the test images alone; equal where results compare."""
    train: int
    """How many images train."""
    val: int
    """How many images the choices are made on."""
    test: int
    """How many images the results are of."""


class StartRecord(_Record):
    """start.json: the model whose weights a run starts from."""

    model: str
    """NAME/VERSION or a job's id: what the spec's selector was when the weights were copied."""
    iteration: int
    """How many optimizer steps they had seen."""


class PerImageScores(_Record):
    """Scores of one model on each test image, in the images' order, and their means."""

    metrics: dict[str, float]
    """Means by name, such as `test/mse` and `test/fg_ari`."""
    mse: list[float]
    """Mean squared error of the last canvas."""
    fg_ari: list[float | None]
    """Adjusted Rand index; None where an image has no masks, or fewer than two objects."""


class CrossEvaluation(_Record):
    """The champion of the time when a run ended, on that run's test images, and the run's model on the champion's."""

    name: str
    version: str
    run_id: str
    """With the two above the champion's identity: a version of a registered model that was deleted and made anew has
    another run."""
    champion: PerImageScores | None = None
    """Of the champion on this run's test images; None where it could not be evaluated there."""
    on_its_images: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Metrics of `champion` and `challenger` on the test images of the champion's own config."""
    note: str | None = None
    """Why something is missing."""


class EvaluationReport(_Record):
    """test.json: the model that a run ends with, evaluated once on its test images."""

    model_name: str
    """The registered model that it is to become a version of."""
    test_checksum: str
    """Of the test images: reports compare image by image where it is the same."""
    height: int
    width: int
    channels: int
    scores: PerImageScores
    scoring_version: int = 1
    """Of the rule that FG-ARI was scored by (`seqae.evaluation.scores`): reports compare where it is the same. 1 is
    that of releases which did not write it down."""
    against: CrossEvaluation | None = None
    """None where there was no champion, or the registry did not answer."""
    chosen_by: str | None = None
    """Who chose the model among others, in words; None where metrics did."""

    def is_comparable(self, other: "EvaluationReport") -> bool:
        """Whether both were made on the same test images, by the same rule."""
        return (self.test_checksum, self.scoring_version) == (other.test_checksum, other.scoring_version)


class Note(_Record):
    """A line of notes.jsonl: the control plane makes an event of it."""

    time: float
    kind: NoteKind
    text: str


class MetricRow(_Record):
    """A line of metrics.jsonl."""

    time: float
    step: int
    metrics: dict[str, float]


class TrialRow(_Record):
    """A line of trials.jsonl; the last line of a trial counts."""

    model_config = ConfigDict(frozen=False)

    trial: int
    state: TrialState
    params: dict[str, bool | int | float | str]
    metrics: dict[str, float] = Field(default_factory=dict)
    """Of the newest evaluation; of a trial with several seeds, their means."""
    standard_errors: dict[str, float] = Field(default_factory=dict)
    """Of the means over seeds."""
    epoch: float = 0.0
    message: str | None = None
    """Why it failed or was stopped."""
    parent: int | None = None
    """Trial whose model it went on from, in population based training."""
    time: float | None = None
    """When this was written, seconds since 1970; an older release writes none."""

    @property
    def is_over(self) -> bool:
        """Whether the trial will not run again."""
        return self.state.is_over


class SearchReport(_Record):
    """search.json: what a search has found, and why its result is the best."""

    best_trial: int
    """Number of the trial whose settings the result has."""
    front: list[int] = Field(default_factory=list)
    """Trials that none beats in all objectives, by the first one; of one objective the best alone."""
    importances: dict[str, float] = Field(default_factory=dict)
    """Share of the differences between trials that each parameter explains (fANOVA), the largest first."""
    why: list[str] = Field(default_factory=list)
    """What the best trial has that the others have not, in sentences."""
    retrained: bool = False
    """Whether the result was trained once more with the best trial's settings."""


class Shipped(_Record):
    """shipped.json: how far a job's folder has been copied to its run on the tracking server."""

    model_config = ConfigDict(frozen=False)

    run_id: str | None = None
    """The run that has it; another run has nothing yet."""
    steps: dict[str, int] = Field(default_factory=dict)
    """The last step of each metric."""
    frames: int = -1
    """Step of the last film strip."""
    artifacts: list[str] = Field(default_factory=list)
    """Names of the files of artifacts/."""
    trials: str | None = None
    """SHA-256 of the table of trials."""
    dataset: str | None = Field(None, alias="seqae.dataset")
    """The data set in words, as it was set for a tag."""
    data: str | None = None
    """Checksum of the data set that was named as the run's."""
    start_from: str | None = None
    """The model that training started from, as it was set for a tag."""
    closed_below: str | None = None
    """Of a trial that is over: the run of the search below which its own run has been closed."""
