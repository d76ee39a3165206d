"""The run of one method: its budget, its clock, its scores, and what becomes of a failure."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.data.scenes import Scenes
from seqae.errors import DivergedError
from seqae.peers.method import Method, Segments
from seqae.peers.runs import Budget, Point, Result, Run, evaluation_points
from seqae.peers.settings import MethodName, SceneSet

BUDGET = Budget(iterations=4, evaluations=2, val_scenes=5, test_scenes=6)


class Perfect:
    """A method that knows the masks of the images it is shown."""

    parameters = 7

    def __init__(self, data: Dataset, fails_at: int | None = None) -> None:
        self.data, self.fails_at, self.steps = data, fails_at, 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.fails_at:
            raise DivergedError("the loss is nan\nand much more")

    def segment(self, images: NDArray[np.uint8]) -> Segments:
        for split in (self.data.val, self.data.test):
            if np.shares_memory(images, split.images):
                return _truth(split.first(len(images)))
        raise AssertionError("images of neither split")


def _truth(scenes: Scenes) -> Segments:
    assert scenes.masks is not None
    assert scenes.counts is not None
    return Segments(scenes.masks, scenes.counts, np.asarray(scenes.images / 255, np.float32))


@pytest.fixture
def run_of(
    small_config: Callable[..., TrainConfig], small_data: Callable[[TrainConfig], Dataset]
) -> Callable[..., tuple[Run, list[int]]]:
    """Makes a run of the perfect method, and a list of the iterations that it is made for."""

    def make(
        budget: Budget = BUDGET, fails_at: int | None = None, name: MethodName = MethodName.OURS
    ) -> tuple[Run, list[int]]:
        config = small_config()
        data = small_data(config)
        asked: list[int] = []

        def method(iterations: int) -> Method:
            asked.append(iterations)
            return Perfect(data, fails_at)

        return Run(name, SceneSet.MNIST, config, data, method, budget), asked

    return make


def _perform(run: Run) -> tuple[Result, list[Point]]:
    points: list[Point] = []
    return run.perform(points.append), points


def test_a_perfect_method_scores_one(run_of: Callable[..., tuple[Run, list[int]]]) -> None:
    run, asked = run_of()
    result, points = _perform(run)
    assert asked == [4]
    assert (result.iterations, result.parameters, result.failed) == (4, 7, None)
    assert {name: score.mean for name, score in result.scores.items()} == dict.fromkeys(
        ("fg_ari", "miou", "mbo", "counts", "counts_owned"), 1
    )
    assert result.best == 1
    assert result.mse == pytest.approx(0)
    assert [point.iteration for point in points] == [1, 4]
    assert result.points == points
    assert result.minutes_to_good == points[0].minutes >= 0
    assert result.line()["scores"]["fg_ari"]["mean"] == 1


def test_a_failure_is_a_row_with_its_reason_and_what_was_reached(
    run_of: Callable[..., tuple[Run, list[int]]],
) -> None:
    result, points = _perform(run_of(fails_at=3)[0])
    assert result.failed == "DivergedError: the loss is nan"
    assert (result.iterations, result.scores, result.mse) == (2, {}, None)
    assert [point.iteration for point in points] == [1]
    assert result.best == 1


def test_a_method_that_can_not_be_made_is_a_row(run_of: Callable[..., tuple[Run, list[int]]]) -> None:
    run, _ = run_of(budget=Budget(minutes=1.0), fails_at=1)  # fails while its rate is measured
    result, points = _perform(run)
    assert result.failed is not None
    assert points == []
    assert (run.method, result.best, result.minutes_to_good) == (None, None, None)


def test_minutes_become_iterations_by_the_measured_rate(
    run_of: Callable[..., tuple[Run, list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr("seqae.peers.runs._seconds", lambda: 3.0 * next(clock))
    run, asked = run_of(budget=Budget(minutes=0.5, evaluations=1, val_scenes=5, test_scenes=6))
    result, _ = _perform(run)
    # Two readings, 3 s apart, around 8 steps of the trial: 0.375 s a step.
    assert asked == [10**6, 80]
    assert result.iterations == 80
    assert result.minutes == pytest.approx(80 * 3 / 60)


def test_what_does_not_learn_is_not_trained(run_of: Callable[..., tuple[Run, list[int]]]) -> None:
    run, asked = run_of(name=MethodName.COMPONENTS, fails_at=1)
    result, points = _perform(run)
    assert (asked, result.iterations, result.failed, len(points)) == ([0], 0, None, 1)


def test_early_evaluations_are_closer() -> None:
    assert sorted(evaluation_points(100, 5)) == [4, 16, 36, 64, 100]
    assert evaluation_points(3, 10) == {1, 2, 3}
