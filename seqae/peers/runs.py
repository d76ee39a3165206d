"""One method on one set of scenes: trained within a budget, followed on `val`, scored once on `test`.

Minutes are spent in training alone. Where one thread computes they are CPU time, so that what else runs on the machine
hardly counts, and with several threads those of the clock. A method that fails keeps what it reached, with the reason.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from seqae.compute.machine import machine
from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.data.scenes import Scenes
from seqae.evaluation.baselines import score_segments
from seqae.evaluation.scores import OwnerScores, Score, mean_score
from seqae.peers.method import Method, Segments
from seqae.peers.settings import MethodName, SceneSet

__all__ = ["GOOD_ARI", "Budget", "Point", "Result", "Run", "evaluation_points"]

GOOD_ARI = 0.95
"""The FG-ARI up to which minutes are counted."""

_PROBE = 12  # steps by which a rate is measured, the first third not counted

Make = Callable[[int], Method]
"""Makes the method for a run of so many iterations."""


@dataclass(frozen=True)
class Budget:
    """How long a method may train, and on how much it is scored."""

    minutes: float = 30.0
    iterations: int | None = None
    """In place of the minutes."""
    evaluations: int = 15
    """On `val`, the more the earlier."""
    val_scenes: int = 300
    test_scenes: int = 1000


@dataclass(frozen=True)
class Point:
    """An evaluation on `val`."""

    iteration: int
    minutes: float
    fg_ari: float
    mse: float | None


@dataclass
class Result:
    """One row of the scoreboard; scores with their standard errors over images are of the end, on `test`."""

    scenes: SceneSet
    method: MethodName
    seed: int
    source: str
    """Where the images come from."""
    budget: Budget
    parameters: int = 0
    iterations: int = 0
    minutes: float = 0.0
    points: list[Point] = field(default_factory=list)
    scores: dict[str, Score] = field(default_factory=dict)
    """`fg_ari`, `miou`, `mbo`, `counts` (the method's own) and `counts_owned`."""
    mse: float | None = None
    failed: str | None = None
    """Why it ended early."""
    machine: dict[str, Any] = field(default_factory=machine)

    @property
    def best(self) -> float | None:
        """Best FG-ARI on `val` within the budget."""
        return max((point.fg_ari for point in self.points), default=None)

    @property
    def minutes_to_good(self) -> float | None:
        """Minutes until the first evaluation on `val` with an FG-ARI of .95; None if there was none."""
        return next((point.minutes for point in self.points if point.fg_ari >= GOOD_ARI), None)

    def line(self) -> dict[str, Any]:
        """The row as plain values, for a line of JSON."""
        return asdict(self) | {
            "best_val_fg_ari": self.best,
            "minutes_to_good": self.minutes_to_good,
            "scores": {name: score._asdict() for name, score in self.scores.items()},
        }


def evaluation_points(iterations: int, count: int) -> set[int]:
    """Iterations to evaluate at: `count` of them, spaced as squares are, so that a quick method is seen to be quick."""
    return {max(1, round(iterations * (k / count) ** 2)) for k in range(1, count + 1)}


class Run:
    """The run of one method.

    Args:
        name: of the method.
        scenes: name of the scenes.
        config: gives the seed.
        data: the scenes.
        make: makes the method.
        budget: how long it may train.
    """

    def __init__(
        self, name: MethodName, scenes: SceneSet, config: TrainConfig, data: Dataset, make: Make, budget: Budget
    ) -> None:
        self.result = Result(scenes, name, config.seed, data.source, budget)
        self.method: Method | None = None
        """The method after its training; None where it could not be made."""
        self._data, self._make, self._budget = data, make, budget

    def perform(self, progress: Callable[[Point], None]) -> Result:
        """Trains and scores; whatever the method raises becomes the row's reason.

        Args:
            progress: called after each evaluation.
        """
        result = self.result
        try:
            self._train(progress)
            assert self.method is not None
            some = self._data.test.first(self._budget.test_scenes)
            segments = self.method.segment(some.images)
            result.scores, result.mse = _scores(segments, some), _error(segments, some)
        except Exception as error:  # noqa: BLE001 - other people's methods fail in their own ways, and that is a result
            # The first line: a tensor library's further ones are dumps.
            reason = (str(error).splitlines() or [""])[0]
            result.failed = f"{type(error).__name__}: {reason}"[:200]
        return result

    def _train(self, progress: Callable[[Point], None]) -> None:
        result, budget = self.result, self._budget
        if not result.method.learns:
            self.method = self._make(0)
            self._evaluate(progress)
            return
        iterations = budget.iterations or self._iterations_for(budget.minutes)
        self.method = self._make(iterations)
        result.parameters = self.method.parameters
        due, seconds = evaluation_points(iterations, budget.evaluations), 0.0
        for iteration in range(1, iterations + 1):
            started = _seconds()
            self.method.step()
            seconds += _seconds() - started
            result.iterations, result.minutes = iteration, seconds / 60
            if iteration in due:
                self._evaluate(progress)

    def _evaluate(self, progress: Callable[[Point], None]) -> None:
        assert self.method is not None
        result, some = self.result, self._data.val.first(self._budget.val_scenes)
        segments = self.method.segment(some.images)
        ari = score_segments(segments.owners, some).fg_ari.mean
        result.points.append(Point(result.iterations, result.minutes, ari, _error(segments, some)))
        progress(result.points[-1])

    def _iterations_for(self, minutes: float) -> int:
        """Iterations that fill the minutes, by the rate of a method that is thrown away."""
        trial, started, warm = self._make(10**6), 0.0, _PROBE // 3
        for at in range(_PROBE):
            if at == warm:
                started = _seconds()
            trial.step()
        return max(1, round(minutes * 60 / ((_seconds() - started) / (_PROBE - warm))))


def _seconds() -> float:
    """A stopwatch's time."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def _scores(segments: Segments, scenes: Scenes) -> dict[str, Score]:
    found: OwnerScores = score_segments(segments.owners, scenes)
    assert scenes.counts is not None
    return {
        "fg_ari": found.fg_ari,
        "miou": found.miou,
        "mbo": found.mbo,
        "counts": mean_score(segments.counts == scenes.counts),
        "counts_owned": found.count_accuracy_owned,
    }


def _error(segments: Segments, scenes: Scenes) -> float | None:
    if segments.canvases is None:
        return None
    return float(np.square(scenes.images / 255 - segments.canvases).mean())
