"""Training runs that take a second, and their folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control
from jobs.specs import TrainSpec, TuneSpec
from jobs.training.worker import DistributedContext, TrainingTask, train
from seqae.figures.make import Material
from tests.tiny import TINY


def tiny_spec(**schedule: Any) -> TrainSpec:
    """12 iterations in 3 epochs; evaluations and checkpoints at 4, 8 and 12."""
    return TrainSpec.model_validate(TINY | {"schedule": TINY["schedule"] | schedule})


@pytest.fixture
def make_spec() -> Callable[..., TrainSpec]:
    """Makes the tiny run with other fields of its schedule."""
    return tiny_spec


@pytest.fixture
def spec() -> TrainSpec:
    return tiny_spec()


@pytest.fixture
def tune_spec() -> TuneSpec:
    """Three trials of the tiny run."""
    space = {"alpha_mseot": {"low": 0.1, "high": 10}, "bottleneck": [4, 8], "kernel_size": [8, 12]}
    return TuneSpec.model_validate({"kind": "tune", "name": "search", "base": TINY, "space": space, "trials": 3})


@pytest.fixture
def folder(tmp_path: Path, spec: TrainSpec) -> JobFolder:
    """A job that is to run its first attempt."""
    made = JobFolder(tmp_path / "jobs" / "job_1")
    made.write_spec(spec)
    made.write_control(Control(attempt=1))
    return made


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built data sets, for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make_task(folder: JobFolder, cache_dir: Path) -> Callable[[int], TrainingTask]:
    """The task of an attempt, by its number."""

    def make(attempt: int) -> TrainingTask:
        return TrainingTask(folder.path, folder.path, attempt, cache_dir, None)

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> JobFolder:
    """A training run that has ended: 12 iterations, evaluated at 4, 8 and 12."""
    folder = JobFolder(tmp_path_factory.mktemp("home") / "jobs" / "job_trained")
    spec = {
        "name": "tiny",
        "data": {"train_scenes": 32, "test_scenes": 8, "min_digits": 1, "max_digits": 1},
        "model": {"height": 32, "width": 32, "steps": 2, "attention": {"kernel_size": 8}, "coder": {"bottleneck": 4}},
        "schedule": {"batch_size": 8, "epochs": 3, "log_every": 1, "evaluate_every": 4, "checkpoint_every": 4},
    }
    folder.write_spec(TrainSpec.model_validate(spec))
    result = train(TrainingTask(folder.path, folder.path, 1, cache_dir, None), DistributedContext())
    folder.attempt(1).write_result(result)
    return folder


@pytest.fixture
def base(cache_dir: Path) -> Material:
    return Material(cache_dir)
