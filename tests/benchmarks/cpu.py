"""Benchmark of the training step on a CPU, as a ratio to its floor.

Steps of each kind and matrix products take turns, so that a machine that slows down slows all of them. Each has a
process of its own, as a run has: in one process they take each other's memory, and their times depend on each other.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

import torch

from jobs.backends.ray import MALLOC
from seqae.compute.cpu_threads import set_threads
from seqae.training import Trainer
from tests.benchmarks.figures import Figure
from tests.benchmarks.step import config_of, data_of, flops_of, gemm, seconds_of

GEMM = 1024  # rows and columns of the matrix product; 2 * 1024^3 FLOPs

STEPS: dict[str, dict[str, Any]] = {
    "eager": {},
    "eager, bfloat16": {"precision": "bfloat16"},
    "eager, activations made again": {"checkpoint_activations": True},
    "compiled": {"compile": "default"},
    "compiled, usual malloc": {"compile": "default"},
}
"""Each kind of step's changes to the default schedule. All but the last have malloc as the workers of a job have it."""

_PRODUCT = "matrix product"
_IN_A_ROW = 3  # calls of one turn, after one that finds the caches full of what others left


class _StepProcess:
    """Process that makes a training step, or a matrix product, when it is asked to.

    Attributes:
        first: seconds of the first call, which compiles.
    """

    def __init__(self, name: str, threads: int, cache: str) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.cpu", name, "--threads", str(threads)]
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
        if "usual malloc" not in name:
            environment |= MALLOC
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.first = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its input, at which it ends

    def seconds(self) -> float:
        """Seconds of one call: the mean of a few in a row.

        Raises:
            CalledProcessError: the process has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise subprocess.CalledProcessError(self._process.wait(), self._process.args)
        return float(line)


def cpu_step(threads: int, rounds: int, compiled: bool) -> Iterator[Figure]:
    """Seconds per step with so many threads, by kind; the figures are ratios to the floor.

    Args:
        threads: of the step and of the matrix product alike.
        rounds: turns of each; the fastest counts, which others on the machine delay least.
        compiled: whether torch.compile is measured too.
    """
    part = f"cpu step, {threads} thread{'s' if threads > 1 else ''}"
    names = [_PRODUCT, *(name for name in STEPS if compiled or "compiled" not in name)]
    found: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as cache, ExitStack() as stack:
        # A cold cache, or the time to compile would be that of finding what was compiled before.
        processes = {name: stack.enter_context(_StepProcess(name, threads, cache)) for name in names}
        for _ in range(rounds):
            for name in names:
                found[name].append(processes[name].seconds())
    best = {name: min(values) for name, values in found.items()}
    config = config_of()
    rate = 2 * GEMM**3 / best.pop(_PRODUCT)
    floor = flops_of(Trainer(config, data_of(config))) / rate
    yield Figure(part, _PRODUCT, rate / 1e9, "GFLOP/s")
    yield Figure(part, "floor: counted FLOPs at that rate", floor * 1e3, "ms/step")
    for name, seconds in best.items():
        yield Figure(part, name, seconds * 1e3, "ms/step", seconds / floor, "floor")
    for name in list(best)[1:]:
        yield Figure(part, f"{name}: speed", 1 / best[name], "step/s", best["eager"] / best[name], "eager")
    if compiled:
        saved = best["eager"] - best["compiled"]
        compile_seconds = processes["compiled"].first
        yield Figure(part, "to compile", compile_seconds, "s")
        if saved > 0:
            yield Figure(part, "pays off after", compile_seconds / saved, "steps")


def fastest(figures: list[Figure], threads: int) -> Figure | None:
    """The fastest exact variant with so many threads, as a ratio to the floor."""
    part = f"cpu step, {threads} thread{'s' if threads > 1 else ''}"
    exact = [f for f in figures if f.part == part and f.against == "floor" and "bfloat16" not in f.name]
    return min(exact, key=lambda figure: figure.value) if exact else None


def main() -> None:
    """What a process of `_StepProcess` does: a turn for each line that it reads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[_PRODUCT, *STEPS])
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    set_threads(given.threads)
    call: Callable[[], object]
    if given.name == _PRODUCT:
        call = gemm(torch.device("cpu"), GEMM)
    else:
        config = config_of(schedule=STEPS[given.name])
        call = partial(next, Trainer(config, data_of(config)).run())
    # One thread's own time leaves out that of others on the machine; of several threads it would be the sum.
    clock = time.process_time if given.threads == 1 else time.perf_counter
    print(seconds_of(call), flush=True)
    seconds_of(call, _IN_A_ROW)
    for _ in sys.stdin:
        call()
        print(seconds_of(call, _IN_A_ROW, clock), flush=True)


if __name__ == "__main__":
    main()
