"""The training step against its floor: counted FLOPs / the rate of a large matrix product measured in the same run.

Steps of all variants and matrix products take turns, so that a machine that slows down slows all of them.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch._inductor import cpp_builder, exc
from torch.utils.flop_counter import FlopCounterMode

from seqae.config import TrainConfig
from seqae.data import Dataset
from seqae.digits import bundled_digits
from seqae.evaluation import Evaluation
from seqae.scenes import Scenes, make_scenes
from seqae.training import Progress, Trainer
from tests.benchmarks.figures import Figure

GEMM = 1024  # rows and columns of the matrix product; 2 * 1024^3 FLOPs
PAPER_STEPS = 100_000  # optimizer steps of the paper's recipe: 250 epochs of 10,000 scenes in batches of 25


def config_of(scenes: int = 500, **parts: Any) -> TrainConfig:
    """The default run (batch 25, T = 6, N = 25, 64 x 64), on scenes of bundled digits; it does not stop by itself."""
    schedule = {"epochs": 10_000, "evaluate_every": 10**9, "checkpoint_every": 10**9, "log_every": 1}
    schedule |= parts.pop("schedule", {})
    data = {"train_scenes": scenes, "test_scenes": 1} | parts.pop("data", {})
    return TrainConfig.model_validate({"data": data, "schedule": schedule} | parts)


def data_of(config: TrainConfig) -> Dataset:
    """Its scenes, in memory."""
    digits = bundled_digits()
    model = config.model
    train = make_scenes(config.data, model.height, model.width, model.channels, digits.train, "train")  # type: ignore[arg-type]
    return Dataset(train, Scenes(train.images[:1]), digits.description, "")


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


def _gemm(device: torch.device, size: int, dtype: torch.dtype = torch.float32) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, right, out=out)

    return multiply


def seconds_of(call: Callable[[], object], repeats: int = 1) -> float:
    """Seconds that one call takes, on the average of `repeats`; a GPU is waited for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def _interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call; they take turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(seconds_of(call))
    return {name: statistics.median(values) for name, values in found.items()}


def has_compiler() -> bool:
    """Whether torch.compile can work on this CPU."""
    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return False
    return True


def _variants(compiled: bool) -> dict[str, dict[str, Any]]:
    variants: dict[str, dict[str, Any]] = {
        "eager": {},
        "eager, bfloat16": {"precision": "bfloat16"},
        "eager, activations made again": {"checkpoint_activations": True},
    }
    return variants | ({"compiled": {"compile": "default"}} if compiled else {})


def cpu_step(threads: int, rounds: int, compiled: bool) -> Iterator[Figure]:
    """Seconds per step with so many threads, by variant; the figures of the variants are ratios to the floor.

    Args:
        threads: of the step and of the matrix product alike.
        rounds: how often each is timed; the median counts.
        compiled: whether torch.compile is measured too.
    """
    part = f"cpu step, {threads} thread{'s' if threads > 1 else ''}"
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.compiler.reset()  # compiled code has the number of threads written into it
    try:
        plain = config_of()
        data = data_of(plain)
        calls: dict[str, Callable[[], object]] = {"gemm": _gemm(torch.device("cpu"), GEMM)}
        flops, compile_seconds = 0, 0.0
        for name, schedule in _variants(compiled).items():
            trainer = Trainer(config_of(schedule=schedule), data)
            calls[name] = partial(next, trainer.run())
            flops = flops or flops_of(trainer)
            first = seconds_of(calls[name])
            compile_seconds = first if name == "compiled" else compile_seconds
        for call in calls.values():
            seconds_of(call, 2)
        medians = _interleaved(calls, rounds)
    finally:
        torch.set_num_threads(before)
    rate = 2 * GEMM**3 / medians.pop("gemm")
    floor = flops / rate
    yield Figure(part, "matrix product", rate / 1e9, "GFLOP/s")
    yield Figure(part, "floor: counted FLOPs at that rate", floor * 1e3, "ms/step")
    for name, seconds in medians.items():
        yield Figure(part, name, seconds * 1e3, "ms/step", seconds / floor, "floor")
    for name in list(medians)[1:]:
        yield Figure(part, f"{name}: speed", 1 / medians[name], "step/s", medians["eager"] / medians[name], "eager")
    if compiled:
        saved = medians["eager"] - medians["compiled"]
        yield Figure(part, "to compile", compile_seconds, "s")
        if saved > 0:
            yield Figure(part, "pays off after", compile_seconds / saved, "steps")


def fastest(figures: list[Figure], threads: int) -> Figure | None:
    """The fastest exact variant with so many threads, as a ratio to the floor."""
    part = f"cpu step, {threads} thread{'s' if threads > 1 else ''}"
    exact = [f for f in figures if f.part == part and f.against == "floor" and "bfloat16" not in f.name]
    return min(exact, key=lambda figure: figure.value) if exact else None


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
        "float32": _gemm(device, 4096),
        "bfloat16": _gemm(device, 4096, torch.bfloat16),
    }
    seconds = _interleaved(calls | {f"gemm {name}": call for name, call in rates.items()}, rounds)
    eager = seconds["eager, float32"]
    for precision in rates:
        rate = 2 * 4096**3 / seconds[f"gemm {precision}"]
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


def drain(run: Iterator[Progress | Evaluation], steps: int) -> None:
    """So many reports of a run; with `log_every` 1, so many steps."""
    for _ in range(steps):
        next(run)
