"""Records of the job directory, one pydantic model for each file or line of a file."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from jobs.errors import ErrorClass
from seqae.config import Config

__all__ = [
    "Control",
    "Failure",
    "MetricRow",
    "Note",
    "Outcome",
    "Phase",
    "Progress",
    "Result",
    "TrialRow",
    "Want",
    "metric_name",
]


class Want(StrEnum):
    """What the control plane wants of the newest attempt."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Control(Config):
    """control.json, written by the control plane only."""

    attempt: int = Field(ge=0)
    want: Want = Want.RUN


class Phase(StrEnum):
    """What an attempt is at."""

    STARTING = "starting"
    DATA = "data"
    TRAINING = "training"
    FINALIZING = "finalizing"


class Progress(Config):
    """progress.json. Counts are of this run as a whole, not of this attempt."""

    time: float
    """When this was written, seconds since 1970: the heartbeat."""
    moved_at: float
    """When the work last moved on. A heartbeat without it is a stall."""
    phase: Phase
    iteration: int = 0
    iterations: int = 0
    epoch: float = 0.0
    epochs: float = 0.0
    loss: float | None = None
    test_mse: float | None = None
    images_per_second: float | None = None
    eta_seconds: float | None = None
    workers: int = 0
    """Workers that train now; an elastic run may have fewer than it may use."""
    trials: dict[str, int] | None = None
    """A search's trials, counted by state."""


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PAUSED = "paused"
    CANCELLED = "cancelled"


class Failure(Config):
    """The error of a failed attempt; in JSON its class is under "class"."""

    error_class: ErrorClass = Field(alias="class")
    message: str


class Result(Config):
    """result.json."""

    outcome: Outcome
    error: Failure | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    checkpoint: str | None = None
    """The model to register, relative to the job's folder."""
    iterations: int = 0
    evaluation_set: str | None = None
    """Names the scenes behind `metrics`: results compare only where it is the same."""


class Note(Config):
    """A line of notes.jsonl: the control plane makes an event of it."""

    time: float
    kind: Literal["checkpoint_damaged", "checkpoint_failed", "workers_lost", "resumed", "fenced", "data"]
    text: str


class MetricRow(Config):
    """A line of metrics.jsonl."""

    time: float
    step: int
    metrics: dict[str, float]


class TrialRow(Config):
    """A line of trials.jsonl; the last line of a trial counts."""

    trial: int
    state: Literal["pending", "running", "stopped", "succeeded", "failed"]
    params: dict[str, int | float]
    metrics: dict[str, float] = Field(default_factory=dict)
    epoch: float = 0.0
    message: str | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("stopped", "succeeded", "failed")


def metric_name(name: str) -> str:
    """How a result's metric is called in metrics.jsonl, so that curves are grouped: test_mse -> test/mse."""
    return f"test/{name.removeprefix('test_')}"
