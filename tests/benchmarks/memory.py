"""Benchmark of training's peak memory by T, N and batch size, each measured in a process of its own."""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from seqae.compute.cpu_threads import set_threads
from seqae.training import Trainer
from tests.benchmarks.figures import Figure
from tests.benchmarks.step import config_of, data_of, drain


@dataclass(frozen=True)
class Size:
    """Sizes that memory depends on."""

    steps: int = 6
    kernel: int = 25
    batch: int = 25
    again: bool = False

    def __str__(self) -> str:
        return f"T {self.steps}, N {self.kernel}, batch {self.batch}{', made again' if self.again else ''}"


BASE = Size()
SIZES = (
    BASE,
    Size(steps=12),
    Size(steps=24),
    Size(kernel=50),
    Size(batch=100),
    Size(again=True),
    Size(steps=24, again=True),
    Size(steps=48),
    Size(steps=48, again=True),
)


def _peak_mib() -> float:
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage, which on Linux starts at the peak of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (20 if sys.platform == "darwin" else 10)


def _work(size: Size, device: str) -> None:
    """Trains for two steps; prints as JSON how far the peak rose above that of a program that trained nothing."""
    set_threads(1)
    model = {"steps": size.steps, "attention": {"kernel_size": size.kernel}}
    schedule = {"batch_size": size.batch, "checkpoint_activations": size.again}
    config = config_of(max(size.batch, 50), model=model, schedule=schedule)
    # A tiny run first: libraries load, and allocate what they keep, at the first step.
    tiny = config_of(50, model={"steps": 1}, schedule={"batch_size": 1})
    drain(Trainer(tiny, data_of(tiny), device=device).run(), 1)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = _peak_mib()
    trainer = Trainer(config, data_of(config), device=device)
    drain(trainer.run(), 2)
    risen = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else _peak_mib() - before
    print(json.dumps({"risen_mib": risen, "peak_mib": _peak_mib()}))


def _measure(size: Size, device: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--device", device, "--again", str(int(size.again))]
    command += ["--steps", str(size.steps), "--kernel", str(size.kernel), "--batch", str(size.batch)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def memory(sizes: tuple[Size, ...] = SIZES) -> Iterator[Figure]:
    """Peak of each size, against the default's; and what making activations again saves."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    part = f"memory, {device}"
    measured = {size: _measure(size, device) for size in sizes}
    base = measured[BASE]["risen_mib"]
    yield Figure(part, "whole process at the default", measured[BASE]["peak_mib"], "MiB")
    for size, peak in measured.items():
        kept = Size(size.steps, size.kernel, size.batch) if size.again else BASE
        against = str(kept) if size.again else "the default"
        ratio = None if size == BASE else peak["risen_mib"] / (measured[kept]["risen_mib"] if size.again else base)
        yield Figure(part, str(size), peak["risen_mib"], "MiB", ratio, against if ratio is not None else "")


def main() -> None:
    parser = argparse.ArgumentParser(description="One measurement; started by tests.benchmarks.main.")
    for name in ("steps", "kernel", "batch", "again"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    _work(Size(given.steps, given.kernel, given.batch, bool(given.again)), given.device)


if __name__ == "__main__":
    main()
