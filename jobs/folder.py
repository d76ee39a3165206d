"""A job's folder: the files by which the control plane and an attempt on the cluster talk, and which outlive both.

    spec.json                the JobSpec
    control.json             what the control plane wants; an attempt older than it names is fenced
    shipped.json             how far the metrics have been copied to the tracking server
    trials/<k>/              a trial of a search: a folder of the same shape, without a control.json of its own
    attempts/<n>/
        progress.json        heartbeat
        metrics.jsonl        one row a step, append-only
        notes.jsonl          things worth an event: a damaged checkpoint skipped, workers lost
        trials.jsonl         a search's trials, one row whenever one changes
        frames/<step>.png    film strip at each evaluation; a figure job's figure
        artifacts/           files for the tracking server, as they are
        checkpoints/<step>/  the newest, the best and the last
        driver.log
        result.json          written last: its presence means that the attempt has ended

Whole files are replaced atomically, so a reader sees the old or the new one, never half of one.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from jobs.errors import ErrorClass, FolderError
from jobs.specs import AnySpec, job_spec
from seqae.config import Config

__all__ = [
    "Attempt",
    "Control",
    "Failure",
    "JobFolder",
    "MetricRow",
    "Note",
    "Outcome",
    "Phase",
    "Progress",
    "Result",
    "TrialRow",
    "Want",
    "metric_name",
    "write_atomically",
]

ConfigT = TypeVar("ConfigT", bound=Config)


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


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file in one step, on disk before it is named: a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path, model: type[ConfigT]) -> ConfigT | None:
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise FolderError(f"{path}: {error}") from error


def _append(path: Path, row: Config) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    line = row.model_dump_json(by_alias=True).encode() + b"\n"
    # One write call to a file opened for appending: lines of two writers don't mix.
    with path.open("ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                # A killed writer tore the last line; without this its rest would swallow ours.
                line = b"\n" + line
        file.write(line)


def _rows(path: Path, model: type[ConfigT]) -> Iterator[ConfigT]:
    """The whole lines of a file; a line torn by a crash is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                yield model.model_validate_json(line)
            except ValidationError:
                # Only a killed writer or a full disk tears a line; what it said was never committed.
                continue


class Attempt:
    """The folder of one attempt."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number
        self.checkpoints = path / "checkpoints"
        self.frames = path / "frames"
        self.artifacts = path / "artifacts"
        self.log = path / "driver.log"

    def read_progress(self) -> Progress | None:
        return _read(self.path / "progress.json", Progress)

    def write_progress(self, progress: Progress) -> None:
        write_atomically(self.path / "progress.json", progress.model_dump_json())

    def read_result(self) -> Result | None:
        return _read(self.path / "result.json", Result)

    def write_result(self, result: Result) -> None:
        write_atomically(self.path / "result.json", result.model_dump_json(by_alias=True))

    def add_metrics(self, step: int, metrics: Mapping[str, float], now: float | None = None) -> None:
        row = MetricRow(time=time.time() if now is None else now, step=step, metrics=dict(metrics))
        _append(self.path / "metrics.jsonl", row)

    def metrics(self) -> Iterator[MetricRow]:
        """Rows as written: after a restart of the workers steps may appear twice; see `JobFolder.history`."""
        return _rows(self.path / "metrics.jsonl", MetricRow)

    def add_note(self, kind: str, text: str) -> None:
        _append(self.path / "notes.jsonl", Note.model_validate({"time": time.time(), "kind": kind, "text": text}))

    def notes(self) -> list[Note]:
        return list(_rows(self.path / "notes.jsonl", Note))

    def add_trial(self, row: TrialRow) -> None:
        _append(self.path / "trials.jsonl", row)

    def trials(self) -> dict[int, TrialRow]:
        """The newest row of each trial."""
        return {row.trial: row for row in _rows(self.path / "trials.jsonl", TrialRow)}

    def frame_steps(self) -> list[int]:
        """Steps that have a film strip, in order."""
        return _numbers(self.frames, suffix=".png")

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint folder, whole or not, in order."""
        return _numbers(self.checkpoints)


class JobFolder:
    """A job's folder, or a trial's within one.

    Args:
        path: absolute.
        control: folder whose control.json counts; a trial obeys its search's.
    """

    def __init__(self, path: Path, control: Path | None = None) -> None:
        self.path = path
        self._control = (path if control is None else control) / "control.json"

    def read_spec(self) -> AnySpec:
        """Raises: FolderError when spec.json is missing or is not a valid spec."""
        path = self.path / "spec.json"
        try:
            return job_spec.validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise FolderError(f"{path}: {error}") from error

    def write_spec(self, spec: AnySpec) -> None:
        write_atomically(self.path / "spec.json", spec.model_dump_json(indent=2))

    def read_control(self) -> Control:
        """What is wanted; before the control plane has said anything: run, whatever the attempt."""
        return _read(self._control, Control) or Control(attempt=0)

    def write_control(self, control: Control) -> None:
        write_atomically(self._control, control.model_dump_json())

    def attempt(self, number: int) -> Attempt:
        return Attempt(self.path / "attempts" / str(number), number)

    def attempts(self) -> list[Attempt]:
        """Those that have a folder, oldest first."""
        return [self.attempt(number) for number in _numbers(self.path / "attempts")]

    def trial(self, index: int) -> "JobFolder":
        return JobFolder(self.path / "trials" / str(index), control=self._control.parent)

    def trials(self) -> dict[int, TrialRow]:
        """The newest row of each trial over all attempts, by index."""
        rows: dict[int, TrialRow] = {}
        for attempt in self.attempts():
            rows |= attempt.trials()
        return dict(sorted(rows.items()))

    def checkpoint_paths(self) -> list[Path]:
        """Checkpoints of all attempts, newest first: by step, and of the same step the later attempt's."""
        found = [(step, attempt) for attempt in self.attempts() for step in attempt.checkpoint_steps()]
        found.sort(key=lambda item: (item[0], item[1].number), reverse=True)
        return [attempt.checkpoints / str(step) for step, attempt in found]

    def history(self, after: Mapping[str, int] | None = None) -> Iterator[MetricRow]:
        """Metrics of all attempts as one curve: each name and step once, steps of a name going up.

        An attempt that resumes repeats steps which the one before had recorded already; the first record counts.

        Args:
            after: the last step of each name that is known already; rows up to there are left out.
        """
        frontier = dict(after or {})
        for attempt in self.attempts():
            for row in attempt.metrics():
                fresh = {name: value for name, value in row.metrics.items() if row.step > frontier.get(name, -1)}
                if fresh:
                    frontier.update(dict.fromkeys(fresh, row.step))
                    yield MetricRow(time=row.time, step=row.step, metrics=fresh)

    def read_shipped(self) -> dict[str, Any]:
        path = self.path / "shipped.json"
        return dict(json.loads(path.read_bytes())) if path.exists() else {}

    def write_shipped(self, shipped: Mapping[str, Any]) -> None:
        write_atomically(self.path / "shipped.json", json.dumps(shipped))


def _numbers(folder: Path, suffix: str = "") -> list[int]:
    if not folder.is_dir():
        return []
    stems = (entry.name.removesuffix(suffix) for entry in folder.iterdir() if entry.name.endswith(suffix))
    return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdecimal())
