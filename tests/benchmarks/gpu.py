"""Benchmark of the training step on a GPU, as a ratio to its floor.

Calls take turns, so that a GPU that slows down slows all of them.
"""

import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch

from seqae.training import Trainer
from tests.benchmarks.figures import Figure
from tests.benchmarks.step import config_of, data_of, flops_of, gemm, seconds_of

GEMM = 4096  # rows and columns of the matrix product
PAPER_STEPS = 100_000  # optimizer steps of the paper's recipe: 250 epochs of 10,000 scenes in batches of 25


def _interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call; they take turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(seconds_of(call))
    return {name: statistics.median(values) for name, values in found.items()}


def gpu_step(rounds: int) -> Iterator[Figure]:
    """Seconds per step on the GPU: eager and captured, float32 and bfloat16, as the trainer runs them."""
    device = torch.device("cuda")
    every = 50  # iterations between two reports: each report makes the host wait once
    data = data_of(config_of())
    calls: dict[str, Callable[[], object]] = {}
    flops, compiling = 0, {}
    for precision in ("float32", "bfloat16"):
        for mode in ("off", "default", "reduce-overhead"):
            name = f"{ {'off': 'eager', 'default': 'compiled', 'reduce-overhead': 'captured'}[mode] }, {precision}"
            schedule = {"precision": precision, "compile": mode, "log_every": every}
            trainer = Trainer(config_of(schedule=schedule), data, device=device)
            flops = flops or flops_of(trainer)
            calls[name] = partial(next, trainer.run())
            compiling[name] = seconds_of(calls[name])
    rates = {
        "float32": gemm(device, GEMM),
        "bfloat16": gemm(device, GEMM, torch.bfloat16),
    }
    seconds = _interleaved(calls | {f"gemm {name}": call for name, call in rates.items()}, rounds)
    eager = seconds["eager, float32"]
    for precision in rates:
        rate = 2 * GEMM**3 / seconds[f"gemm {precision}"]
        floor = flops / rate
        yield Figure("gpu step", f"matrix product, {precision}", rate / 1e12, "TFLOP/s")
        yield Figure("gpu step", f"floor, {precision}", floor * 1e3, "ms/step")
        for name in calls:
            if name.endswith(precision):
                step = seconds[name] / every
                yield Figure("gpu step", name, step * 1e3, "ms/step", step / floor, "floor")
                yield Figure("gpu step", f"{name}: speed", 1 / step, "step/s", eager / seconds[name], "eager, float32")
                yield Figure("gpu step", f"{name}: first {every} steps", compiling[name], "s")
                minutes = step * PAPER_STEPS / 60
                yield Figure("gpu step", f"{name}: {PAPER_STEPS:,} steps would take", minutes, "min")
