"""Benchmark of data-parallel training over gloo: two workers against one at the same global batch."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist

from seqae.compute.cpu_threads import set_threads
from seqae.compute.machine import cores
from seqae.training import Trainer
from tests.benchmarks.figures import Figure
from tests.benchmarks.step import config_of, data_of, drain

_WARM = 5  # steps before the clock starts


def _work(rank: int, world: int, threads: int, steps: int, store: Path) -> None:
    """One worker: prints images/s over all workers as JSON, on rank 0."""
    set_threads(threads)
    if world > 1:
        dist.init_process_group("gloo", init_method=store.as_uri(), rank=rank, world_size=world)
    config = config_of()
    all_reduce = dist.all_reduce if world > 1 else None
    trainer = Trainer(config, data_of(config), rank=rank, world=world, all_reduce=all_reduce)
    run = trainer.run()
    drain(run, _WARM)
    if world > 1:
        dist.barrier()
    started = time.perf_counter()
    drain(run, steps)
    if world > 1:
        dist.barrier()
    if rank == 0:
        seconds = time.perf_counter() - started
        print(json.dumps({"images_per_second": steps * config.schedule.batch_size / seconds}))
    if world > 1:
        dist.destroy_process_group()


def _measure(world: int, threads: int, steps: int) -> float:
    """Images/s of so many workers with so many threads each."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.benchmarks.workers", "--world", str(world), "--threads", str(threads)]
        command += ["--steps", str(steps), "--store", str(Path(folder) / "store")]
        processes = [
            subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True)
            for rank in range(world)
        ]
        try:
            outputs = [process.communicate(timeout=900)[0] for process in processes]
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
    if any(process.returncode for process in processes):
        raise RuntimeError(f"a worker failed with {[process.returncode for process in processes]}")
    return float(json.loads(outputs[0].splitlines()[-1])["images_per_second"])


def workers(steps: int, rounds: int) -> Iterator[Figure]:
    """Images/s of one worker, of two, and of one with two threads; they take turns, the best of each counts."""
    kinds = {"1 worker, 1 thread": (1, 1), "2 workers, 1 thread each": (2, 1), "1 worker, 2 threads": (1, 2)}
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, (world, threads) in kinds.items():
            found[name].append(_measure(world, threads, steps))
    one = max(found["1 worker, 1 thread"])
    for name, rates in found.items():
        against = "" if name == "1 worker, 1 thread" else "1 worker, 1 thread"
        yield Figure("workers", name, max(rates), "image/s", max(rates) / one if against else None, against)
    if cores() < 2:
        yield Figure("workers", "cores, fewer than workers", cores(), "cores")


def main() -> None:
    parser = argparse.ArgumentParser(description="One worker; started by tests.benchmarks.main.")
    for name in ("rank", "world", "threads", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--store", type=Path, required=True)
    given = parser.parse_args()
    _work(given.rank, given.world, given.threads, given.steps, given.store)


if __name__ == "__main__":
    main()
