"""Replay of a training run from one of its checkpoints, and its comparison with the logged metrics."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jobs.directory.layout import JobFolder
from jobs.training.metrics_writer import training_row
from seqae.checkpoints.manifest import verify
from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.errors import CheckpointError, DataError
from seqae.optimization.progress import Progress
from seqae.training import Trainer

__all__ = ["Comparison", "Verification", "replay"]

_COMPARED = (
    "train/loss",
    "train/region_loss",
    "train/mseot",
    "train/mse",
    "train/separation",
    "train/location",
    "train/active_writes",
    "train/learning_rate",
    "train/gradient_norm",
)
"""What the same weights and images decide; speed and load are not among them."""

_TINY = 1e-6
"""Values below count as this in a relative deviation: they are rounding and nothing else."""


@dataclass(frozen=True)
class Comparison:
    """One logged number against the same number of the replay."""

    iteration: int
    name: str
    logged: float
    replayed: float

    @property
    def deviation(self) -> float:
        """Relative to the logged number; infinite where only one of the two is a number."""
        if not math.isfinite(self.replayed):
            return math.inf
        return abs(self.replayed - self.logged) / max(abs(self.logged), _TINY)


@dataclass(frozen=True)
class Verification:
    """What a replay has found."""

    start: int
    """Iteration of the checkpoint that it went on from; 0: the start of the run."""
    tolerance: float
    """Largest relative deviation that counts as the same."""
    comparisons: tuple[Comparison, ...]

    @property
    def worst(self) -> Comparison:
        """The comparison that deviates most."""
        return max(self.comparisons, key=lambda one: one.deviation)

    @property
    def agrees(self) -> bool:
        """Whether every number is what was logged."""
        return self.worst.deviation <= self.tolerance

    @property
    def summary(self) -> str:
        """The result in a line."""
        iterations = sorted({one.iteration for one in self.comparisons})
        worst = self.worst
        verdict = "as logged" if self.agrees else "NOT as logged"
        return (
            f"{verdict}: {len(iterations)} reports, iterations {iterations[0]} to {iterations[-1]}, trained again from "
            f"iteration {self.start}; {worst.name} at {worst.iteration} deviates most, by {worst.deviation:.2g} "
            f"(tolerance {self.tolerance:g})"
        )

    def document(self) -> dict[str, Any]:
        """All of it, for JSON, which has no infinity."""
        rows = [
            asdict(one) | {"replayed": _finite(one.replayed), "deviation": _finite(one.deviation)}
            for one in self.comparisons
        ]
        return {
            "agrees": self.agrees,
            "summary": self.summary,
            "start": self.start,
            "tolerance": self.tolerance,
            "comparisons": rows,
        }


def replay(
    job: JobFolder,
    config: TrainConfig,
    data: Dataset,
    *,
    start: int | None,
    reports: int,
    tolerance: float,
    progress: Callable[[int, int], None] = lambda _done, _count: None,
) -> Verification:
    """Trains a part of a run again, on one worker, and compares it with what the run logged.

    Args:
        job: whose checkpoints and metrics are used.
        config: of its run.
        data: of its run.
        start: at which iteration to begin: at the newest checkpoint that is not after it; None: at the newest
            checkpoint that has enough logged reports after it, or else the start of the run.
        reports: how many logged reports to compare.
        tolerance: largest relative deviation that counts as the same.
        progress: called with the reports compared so far and all.

    Raises:
        DataError: nothing was logged after that.
    """
    logged = {row.step: row.metrics for row in job.history() if "train/loss" in row.metrics}
    path = _choose(job, logged, start, reports)
    # Evaluations are not compared: one image of each will do.
    trainer = Trainer(config, replace(data, val=data.val.first(1)))
    if path is not None:
        trainer.load(path)
    elif job.read_start() is not None:  # the run began with another model's weights
        trainer.start_from(job.start)
    began, found, compared = trainer.iteration, list[Comparison](), 0
    for report in trainer.run():
        if isinstance(report, Progress) and report.iteration in logged:
            found += _compare(report.iteration, logged[report.iteration], training_row(report))
            compared += 1
            progress(compared, reports)
        if compared == reports:
            break
    if not found:
        raise DataError(f"{job.path.name}: nothing was logged after iteration {began}")
    return Verification(began, tolerance, tuple(found))


def _choose(job: JobFolder, logged: Iterable[int], start: int | None, reports: int) -> Path | None:
    """The checkpoint to begin at; None: the start of the run."""
    steps = sorted(logged)
    for path in job.checkpoint_paths():  # the newest first
        step = int(path.name)
        fits = step <= start if start is not None else sum(at > step for at in steps) >= reports
        if fits and _is_whole(path):
            return path
    return None


def _is_whole(path: Path) -> bool:
    try:
        verify(path)
    except CheckpointError:
        return False
    return True


def _compare(iteration: int, logged: Mapping[str, float], replayed: Mapping[str, float]) -> list[Comparison]:
    return [Comparison(iteration, name, logged[name], replayed[name]) for name in _COMPARED if name in logged]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
