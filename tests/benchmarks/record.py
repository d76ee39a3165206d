"""Record of one run of an experiment, as a row of the table of experiments and as a line of JSON."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seqae.compute.machine import machine
from seqae.data.scenes import Scenes
from seqae.evaluation.baselines import connected_components, score_segments
from seqae.evaluation.scores import OwnerScores, Score

GOOD_ERROR = 0.01
GOOD_ARI = 0.95

HEADER = (
    "| setting | seed | iterations | minutes | empty MSE | test MSE | FG-ARI | mIoU | count accuracy | "
    "components' FG-ARI | touching | min. to error 0.01 | min. to FG-ARI 0.95 |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class EvaluationPoint:
    """Evaluation on `val` during a run. `minutes` are of training alone."""

    iteration: int
    minutes: float
    mse: float
    fg_ari: float | None


@dataclass
class Record:
    """Settings and results of one run; the scores are of its end, on `test`."""

    setting: str
    seed: int
    config: dict[str, Any]
    data: str
    """Where the images come from."""
    iterations: int = 0
    minutes: float = 0.0
    """Of training; evaluations, loading and probing the rate are not counted."""
    budget_minutes: float | None = None
    """The time that the iterations were chosen to fill, if they were."""
    scenes: int = 0
    """In the final evaluation."""
    empty_mse: float = float("nan")
    mse: float = float("nan")
    fg_ari: float | None = None
    miou: float | None = None
    count_accuracy: float | None = None
    components_fg_ari: float | None = None
    """Of connected components on the same scenes: what needs no learning."""
    touching: float | None = None
    """Share of the scenes whose objects touch."""
    failed: str | None = None
    """Why it ended early."""
    evaluations: list[EvaluationPoint] = field(default_factory=list)
    extra: dict[str, float] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=machine)
    commit: str = ""

    def score(self, owners: OwnerScores, count_accuracy: Score, scenes: Scenes) -> None:
        """Takes over how object-wise the writes are, and the baseline on the same scenes."""
        self.fg_ari, self.miou = owners.fg_ari.mean, owners.miou.mean
        self.count_accuracy = count_accuracy.mean
        self.score_baseline(scenes)

    def score_baseline(self, scenes: Scenes) -> None:
        """Takes over what needs no learning on the same scenes, and how hard these are."""
        self.components_fg_ari = score_segments(connected_components(scenes.images), scenes).fg_ari.mean
        self.touching = float(scenes.touching().mean())

    def minutes_until(self, good: Callable[[EvaluationPoint], bool]) -> float | None:
        """Minutes of training until the first evaluation that is good; None if none is."""
        return next((point.minutes for point in self.evaluations if good(point)), None)

    def row(self) -> str:
        """One row of the table of experiments."""
        quick = self.minutes_until(lambda point: point.mse <= GOOD_ERROR)
        objects = self.minutes_until(lambda point: point.fg_ari is not None and point.fg_ari >= GOOD_ARI)
        setting = f"{self.setting} (**failed**: {self.failed})" if self.failed else self.setting
        cells = [setting, str(self.seed), f"{self.iterations:,}", f"{self.minutes:.1f}"]
        cells += [_cell(self.empty_mse, 4), _cell(self.mse, 4)]
        cells += [_cell(value, 3) for value in (self.fg_ari, self.miou, self.count_accuracy, self.components_fg_ari)]
        cells.append("-" if self.touching is None else f"{self.touching:.1%}")
        cells += [_cell(quick, 1, "never"), _cell(objects, 1, "never" if self.fg_ari is not None else "-")]
        return f"| {' | '.join(cells)} |"

    def append_to(self, file: Path) -> None:
        """Adds one line of JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.commit = self.commit or commit()
        with file.open("a") as lines:
            lines.write(json.dumps(asdict(self)) + "\n")


def _cell(value: float | None, digits: int, missing: str = "-") -> str:
    return missing if value is None or np.isnan(value) else f"{value:.{digits}f}"


def commit() -> str:
    """The source's commit, "+" behind it if files differ; empty outside of a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
