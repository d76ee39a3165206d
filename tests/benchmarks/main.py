"""All benchmarks of speed in one table, as ratios of values of the same run: `python -m tests.benchmarks.main`.

Writes bench.json, and ends with `bench: cpu step <x> x floor on <processor>`: the default step (batch 25, T = 6,
N = 25) on two threads (or the most of `--threads`), by the fastest variant with the same results.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from seqae.compute.compilation import has_compiler
from seqae.compute.machine import cores, machine
from tests.benchmarks.cpu import cpu_step, fastest
from tests.benchmarks.figures import Figure, as_json, table
from tests.benchmarks.gpu import gpu_step
from tests.benchmarks.inputs import caching, scenes
from tests.benchmarks.memory import SIZES, memory
from tests.benchmarks.workers import workers

PARTS = ("step", "gpu", "workers", "data", "memory")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, joined by commas: {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="few repeats and small sizes, to see that it works")
    parser.add_argument("--rounds", type=int, default=None, help="how often each step is timed (25; quick: 3)")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=list(range(1, min(2, cores()) + 1)), help="of the CPU step"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out of the CPU step")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("SEQAE_DATA_DIR"), help="with coco128 below it")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    return parser


def _steps(given: argparse.Namespace, rounds: int, notes: list[str]) -> Iterator[Figure]:
    compiled = not given.no_compile and has_compiler()
    if not compiled:
        notes.append(f"cpu step, compiled: not measured: {'left out' if given.no_compile else 'no C++ compiler'}")
    for threads in given.threads:
        yield from cpu_step(threads, rounds, compiled)


def _data(given: argparse.Namespace) -> Iterator[Figure]:
    yield from scenes(300 if given.quick else 12_000)
    yield from caching(given.data_dir, 1 if given.quick else 5, 16 if given.quick else 128)


def _run(given: argparse.Namespace, parts: list[str]) -> tuple[list[Figure], list[str]]:
    """All figures, and what was not measured, each with the reason."""
    notes: list[str] = []
    figures: list[Figure] = []
    rounds = given.rounds or (3 if given.quick else 25)
    makers: dict[str, Callable[[], Iterator[Figure]]] = {
        "step": lambda: _steps(given, rounds, notes),
        "gpu": lambda: gpu_step(rounds),
        "workers": lambda: workers(3 if given.quick else 60, 1 if given.quick else 3),
        "data": lambda: _data(given),
        "memory": lambda: memory(SIZES[:2] if given.quick else SIZES),
    }
    for part in parts:
        if part == "gpu" and not torch.cuda.is_available():
            notes.append("gpu step: not measured: no GPU")
            continue
        print(f"{part} ...", file=sys.stderr, flush=True)
        try:
            figures += makers[part]()
        except Exception:
            print(table(figures))  # what took minutes is not lost with what failed
            raise
    return figures, notes


def main() -> int:
    parser = _parser()
    given = parser.parse_args()
    parts = [part for part in given.only.split(",") if part]
    unknown = set(parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    described = machine()  # before the load that this makes
    with tempfile.TemporaryDirectory() as compiled:
        # A cold cache, or the time to compile would be that of finding what an earlier run compiled.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled
        figures, notes = _run(given, parts)
    step = fastest(figures, max(given.threads))
    print(f"{described['cpu']}, {described['cores']} cores, load {described['load']:.1f}, torch {described['torch']}")
    print(table(figures))
    for note in notes:
        print(note)
    ratio = step.ratio if step else None
    report = {
        "machine": described,
        "quick": given.quick,
        "figures": as_json(figures),
        "not_measured": notes,
        "cpu_step_ratio": ratio,
        "cpu_step_variant": f"{step.part}: {step.name}" if step else None,
    }
    given.out.write_text(json.dumps(report, indent=2) + "\n")
    if step:
        print(f"fastest with the same results: {step.name}, {step.part}")
    measured = "not measured" if ratio is None else f"{ratio:.2f} x floor on {described['cpu']}"
    print(f"bench: cpu step {measured}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
