"""What clusters of 8, 64 and 512 GPUs would do, on paper: formulas, measured constants, and named assumptions.

`python -m tests.benchmarks.sizing` prints the tables of docs/cluster.md.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from seqae.config import TrainConfig
from seqae.model import SequentialAutoEncoder

__all__ = ["Link", "day_lines", "parameters", "scaling_lines"]

# Measured, see docs/experiments.md: GFLOP of a step of 25 images are the floor's 76.3 ms at 95.6 GFLOP/s.
FLOP_PER_IMAGE = 76.3e-3 * 95.6e9 / 25
IMAGES_PER_SECOND = {1: 163.0, 2: 217.0}
"""Of workers with a thread each, over gloo on one machine of two cores."""

# Assumed: no GPU was measured. `make bench` on one gives both, and the table is to be printed again.
GPU_FLOPS = 10e12
"""What a GPU reaches on this model's small convolutions, in float32."""
LAUNCH_SECONDS = 20e-3
"""A step takes no less, however few images it has: thousands of kernels are launched one by one."""
GPUS_PER_MACHINE = 8


@dataclass(frozen=True)
class Link:
    """How GPUs exchange gradients."""

    bytes_per_second: float
    latency: float
    """Seconds of one message."""


WITHIN = Link(300e9, 10e-6)
BETWEEN = Link(25e9, 30e-6)
"""200 Gbit/s for each GPU."""


def parameters() -> int:
    """Trained numbers of the default model."""
    model = SequentialAutoEncoder(TrainConfig().model)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def sent_bytes(gpus: int, gradient_bytes: float) -> float:
    """What each GPU sends in one all-reduce: 2 (N - 1) / N of the gradient."""
    return 2 * (gpus - 1) / gpus * gradient_bytes


def all_reduce_seconds(gpus: int, gradient_bytes: float) -> float:
    """A tree's: the bytes at the slowest link's rate, and 2 log2 N messages one after the other."""
    link = WITHIN if gpus <= GPUS_PER_MACHINE else BETWEEN
    return sent_bytes(gpus, gradient_bytes) / link.bytes_per_second + 2 * math.log2(gpus) * link.latency


def step_seconds(images: int) -> float:
    """A GPU's own part of a step."""
    return max(LAUNCH_SECONDS, images * FLOP_PER_IMAGE / GPU_FLOPS)


def scaling_lines() -> Iterator[str]:
    """Table of GPUs against what they exchange and reach."""
    gradient_bytes = 4 * parameters()
    least = math.ceil(LAUNCH_SECONDS * GPU_FLOPS / FLOP_PER_IMAGE)
    yield (
        f"{parameters():,} parameters, {gradient_bytes / 1e6:.2f} MB of gradients; "
        f"{least} images fill a GPU's shortest step"
    )
    yield ""
    last = "global batch below which more GPUs don't pay"
    yield f"| GPUs | sent by each, a step | all-reduce | step, 25 images each | efficiency | {last} |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for gpus in (1, 8, 64, 512):
        exchange = 0.0 if gpus == 1 else all_reduce_seconds(gpus, gradient_bytes)
        step = step_seconds(25) + exchange
        sent = sent_bytes(gpus, gradient_bytes) / 1e6
        yield (
            f"| {gpus} | {sent:.2f} MB | {exchange * 1e3:.2f} ms | {step * 1e3:.2f} ms | "
            f"{step_seconds(25) / step:.0%} | {least * gpus:,} |"
        )
    one, two = (1 / IMAGES_PER_SECOND[workers] for workers in (1, 2))
    yield ""
    yield f"measured, 2 workers on 2 cores: {(two - one / 2) / two:.0%} of a step is not the model's"


JOBS_A_DAY = 10_000
EVENTS_AT_LEAST = 215 / 24
"""Events a job of the 24 short ones in tests/fixtures/legacy."""
FILES = 205 / 22
"""Files a job of the same, in its folder."""
CALLS = 4
"""Of Ray for each attempt, but for polls: cluster, state, submission, end."""
POLL_SECONDS = 5.0
PROGRESS_SECONDS = 2.0


def day_lines() -> Iterator[str]:
    """Table of a day's jobs by how long each runs."""
    yield "| mean run | jobs at once | requests of Ray | rows of events a day | files or objects a day |"
    yield "| --- | --- | --- | --- | --- |"
    for seconds in (60, 600, 3600):
        at_once = JOBS_A_DAY * seconds / 86_400
        requests = at_once / POLL_SECONDS + JOBS_A_DAY * CALLS / 86_400
        rows = JOBS_A_DAY * (EVENTS_AT_LEAST + seconds / PROGRESS_SECONDS)
        yield (
            f"| {seconds} s | {at_once:.0f} | {requests:.1f} a second | {rows / 1e6:.1f} million | "
            f"{JOBS_A_DAY * FILES:,.0f} and its checkpoints |"
        )


def main() -> None:
    for line in (*scaling_lines(), "", *day_lines()):
        print(line)


if __name__ == "__main__":
    main()
