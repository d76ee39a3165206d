"""Table of a checkpoint's segmentation: `python -m tests.benchmarks.reading --checkpoint DIR --row overlap`.

Scores the checkpoint on the scenes of a row of the experiments, by its writes and after looking again, beside connected
components, each with its standard error over images, and measures what looking again costs.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from seqae.checkpoints import checkpoint
from seqae.checkpoints.manifest import verify
from seqae.compute.machine import machine
from seqae.data.cache import load_data
from seqae.data.scenes import Scenes
from seqae.data.splits import SPLITS, Split
from seqae.evaluation.baselines import connected_components, score_segments
from seqae.evaluation.evaluate import Evaluation, evaluate
from seqae.evaluation.names import modern
from seqae.evaluation.scores import OwnerScores, Score
from seqae.model import Output, SequentialAutoEncoder
from seqae.segmentation.looks import LOOKS, look_again
from seqae.segmentation.ownership import own_pixels
from seqae.tensors import intensities
from tests.benchmarks.rows import ROWS, config_of

HEADER = (
    "| owner of a pixel | FG-ARI | FG-ARI, shared pixels too | mIoU | mIoU, whole objects | mBO | counts by pixels "
    "| touching |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)
_BATCH = 16  # as a busy reconstructor has it
_REPEATS = 15


@dataclass(frozen=True)
class Cost:
    """What one image costs, in a batch of 16."""

    forward_ms: float
    """CPU time of the model."""
    look_ms: float
    """CPU time of all looks together."""
    coder_calls: float
    """Patches that the looks put through the coder."""


def measure_cost(model: SequentialAutoEncoder, scenes: Scenes, steps: int, looks: int) -> Cost:
    """The fastest of repeated runs on the first images."""
    image = intensities(scenes.images[:_BATCH])
    with torch.inference_mode():
        output: Output = model(image, steps)
        first = own_pixels(image, output, has_background=model.background is not None)
        forward = _milliseconds(lambda: model(image, steps))
        looking = _milliseconds(lambda: look_again(model, image, output, first, looks).owners)
    count = len(image)
    return Cost(forward / count, looking / count, looks * int(first.active.sum()) / count)


def _milliseconds(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(_REPEATS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return 1000 * min(seconds)


def row_of(name: str, scores: OwnerScores, touching: float) -> str:
    """One row of the table; `touching` is the share of scenes whose objects touch."""
    each = (scores.fg_ari, scores.fg_ari_all, scores.miou, scores.miou_whole, scores.mbo, scores.count_accuracy_owned)
    return f"| {name} | {' | '.join(map(cell, each))} | {touching:.1%} |"


def cell(score: Score | None) -> str:
    """A mean with its standard error, where it has one."""
    if score is None:
        return "-"
    return f"{score.mean:.4f}" + ("" if score.standard_error is None else f" +- {score.standard_error:.4f}")


def report(found: Evaluation, baseline: OwnerScores, looks: int) -> str:
    """The table, and what it does not hold.

    Raises:
        ValueError: the images have no masks.
    """
    segments = found.segments
    if segments is None:
        raise ValueError("these images have no masks to score against")
    owners = {
        "connected components": baseline,
        "the strongest write": segments.of_writes,
        f"the strongest after {looks} looks": segments.of_looks,
    }
    rows = [HEADER, *(row_of(name, scores, segments.touching.mean) for name, scores in owners.items())]
    rows.append(f"error {found.mse:.5f}; counts by energy {cell(segments.energy.count_accuracy)}")
    return "\n".join(rows)


def main() -> int:
    """Scores the checkpoint that the arguments name; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--row", choices=ROWS, help="whose scenes and T; the checkpoint's own when left out")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--scenes", type=int, help="at most so many; all when left out")
    parser.add_argument("--looks", type=int, default=LOOKS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache-dir", type=Path, default=Path("experiments/data"))
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("SEQAE_DATA_DIR"), help="MNIST and coco128")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    manifest, own = verify(given.checkpoint), checkpoint.read_config(given.checkpoint)
    config = config_of(ROWS[given.row], 0, {}, None) if given.row else own
    data = load_data(config.data, own.model, given.cache_dir, given.data_dir)
    split: Split = given.split
    scenes: Scenes = {"train": data.train, "val": data.val, "test": data.test}[split]
    scenes = scenes.first(given.scenes or len(scenes.images))
    model = checkpoint.load_model(given.checkpoint).eval()
    found = evaluate(
        model,
        scenes,
        steps=config.model.steps,
        limit=len(scenes.images),
        iteration=manifest.iteration,
        epoch=0.0,
        active_share=modern(manifest.metrics).get("val/active_share"),
        looks=given.looks,
    )
    row = given.row or "its own"
    print(f"{given.checkpoint}, {len(scenes.images):,} {split} scenes of {row}, T {config.model.steps}")
    components = score_segments(connected_components(scenes.images), scenes)
    print(report(found, components, given.looks))
    cost = measure_cost(model, scenes, config.model.steps, given.looks)
    about = f"looking {cost.look_ms:.2f} ms, {cost.coder_calls:.1f} coder calls; model {cost.forward_ms:.2f} ms"
    print(f"an image, in a batch of {_BATCH}, {given.threads} thread(s), CPU time: {about}; {machine()['cpu']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
