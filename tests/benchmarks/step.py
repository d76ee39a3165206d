"""Training step that the benchmarks measure, its FLOPs, and its floor.

The floor is the counted FLOPs / the rate of a matrix product measured in the same run.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.data.digits import bundled_digits
from seqae.data.mnist_scenes import make_scenes
from seqae.data.scenes import Scenes
from seqae.evaluation.evaluate import Evaluation
from seqae.optimization.progress import Progress
from seqae.training import Trainer


def config_of(scenes: int = 500, **parts: Any) -> TrainConfig:
    """The default run (batch 25, T = 6, N = 25, 64 x 64), on scenes of bundled digits; it does not stop by itself."""
    schedule = {"epochs": 10_000, "evaluate_every": 10**9, "checkpoint_every": 10**9, "log_every": 1}
    schedule |= parts.pop("schedule", {})
    data = {"train_scenes": scenes, "val_scenes": 1, "test_scenes": 1} | parts.pop("data", {})
    return TrainConfig.model_validate({"data": data, "schedule": schedule} | parts)


def data_of(config: TrainConfig) -> Dataset:
    """Its scenes, in memory."""
    digits = bundled_digits()
    model = config.model
    train = make_scenes(config.data, model.height, model.width, model.channels, digits.train, "train")  # type: ignore[arg-type]
    one = Scenes(train.images[:1])
    return Dataset(train, one, one, digits.description, "", "")


def flops_of(trainer: Trainer) -> int:
    """FLOPs of one step's convolutions and matrix products, forward and backward; a multiply and an add are two."""
    config = trainer.config
    # Counted on a trainer that computes eagerly, on the same images.
    eager = config.model_copy(
        update={"schedule": config.schedule.model_copy(update={"compile": "off", "precision": "float32"})}
    )
    counting = Trainer(eager, replace(trainer.data, train=trainer.data.train.first(config.schedule.batch_size)))
    with FlopCounterMode(display=False) as counter:
        next(counting.run())
    return int(counter.get_total_flops())


def gemm(device: torch.device, size: int, dtype: torch.dtype = torch.float32) -> Callable[[], None]:
    """The product of two square matrices of so many rows; 2 * size^3 FLOPs."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, right, out=out)

    return multiply


def seconds_of(call: Callable[[], object], repeats: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that one call takes by a clock, on the average of `repeats`; a GPU is waited for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = clock()
    for _ in range(repeats):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (clock() - started) / repeats


def drain(run: Iterator[Progress | Evaluation], steps: int) -> None:
    """So many reports of a run; with `log_every` 1, so many steps."""
    for _ in range(steps):
        next(run)
