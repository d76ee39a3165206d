"""Table of real pictures, cross-validated over images: `python -m tests.benchmarks.photos --variant bounded`.

Trains a variant on all folds of coco128 but one, for each fold, and scores it on the images that it never saw: FG-ARI
and mBO of objects of at least 1% of the image, beside equal blocks, k-means and SLIC on the same images, with standard
errors over images. An error alone says nothing about objects: a whole-image auto-encoder has a low one.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from seqae.compute.cpu_threads import set_threads
from seqae.compute.machine import machine
from seqae.config import ImagesConfig, TrainConfig
from seqae.data.cache import Dataset, load_data
from seqae.data.scenes import Scenes
from seqae.data.splits import SPLITS
from seqae.evaluation.baselines import Baseline, partition, score_segments
from seqae.figures.layout import grid
from seqae.model import SequentialAutoEncoder
from seqae.peers.method import BATCH, Segments, joined
from seqae.peers.ours import OurMethod
from seqae.rendering.panels import owner_colours, panel
from seqae.tensors import intensities
from tests.benchmarks.overfit import LEAST_SHARE
from tests.benchmarks.reading import cell
from tests.benchmarks.rows import ROWS, merged, parsed, setting

PHOTOS = {key: ROWS["coco16"].overrides["data"][key] for key in ("kind", "path", "annotations")}
VARIANTS: dict[str, dict[str, Any]] = {
    # The overfitting check's model: windows of up to 56 of 64 pixels, placed by Figure 2's network.
    "whole-image": {"model": ROWS["coco16"].overrides["model"], "loss": ROWS["coco16"].overrides["loss"]},
    # Windows of 9 to 29 pixels at the seeker's peak of what the background leaves.
    "bounded": {
        "data": {"crop": 0.4, "flip": True},
        "model": {
            "channels": 3,
            "steps": 8,
            "background": {"bottleneck": 32},
            "attention": {"write_gain": "unit"},
        },
    },
    # The same, with objects of three sizes, to 41 pixels.
    "bounded-sizes": {
        "data": {"crop": 0.4, "flip": True},
        "model": {
            "channels": 3,
            "steps": 8,
            "background": {"bottleneck": 32},
            "attention": {"write_gain": "unit"},
            "localizer": {"sizes": [12, 20, 28]},
        },
    },
}
HEADER = (
    "| segments | FG-ARI | mBO | MSE | MSE, training images | window, pixels | spread of centres, pixels |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Windows:
    """Where a model attends, as means over images: all windows large and in one place are a collapse."""

    side: float
    """Of what the kernels tile, in pixels."""
    spread: float
    """Standard deviation of the centres of an image's windows, in pixels."""


def all_images(data: Dataset) -> Scenes:
    """All images of a data set with their masks, objects below 1% of the area left out.

    Raises:
        ValueError: there are no masks.
    """
    parts = [{"train": data.train, "val": data.val, "test": data.test}[split] for split in SPLITS]
    known = [Scenes(part.images, part.masks, part.overlap, counts=part.counts) for part in parts]
    return Scenes.joined(known).without_small(LEAST_SHARE)


def taken(scenes: Scenes, rows: NDArray[np.int64]) -> Scenes:
    """Some of the scenes, in the order given."""
    return Scenes.joined([scenes.part(int(row), int(row) + 1) for row in rows])


def measure_windows(model: SequentialAutoEncoder, images: NDArray[np.uint8]) -> Windows:
    """Size and spread of the windows on images [M, C, H, W]."""
    model.eval()
    with torch.inference_mode():
        found = [model(intensities(images[at : at + BATCH])).windows for at in range(0, len(images), BATCH)]
    x, y, delta = (torch.cat([getattr(one, name) for one in found], dim=1) for name in ("x", "y", "delta"))
    side = model.config.attention.kernel_size * delta
    spread = (x.var(dim=0, correction=0) + y.var(dim=0, correction=0)).sqrt()
    return Windows(float(side.mean()), float(spread.mean()))


@dataclass(frozen=True)
class Fold:
    """A model's results on images that it was not trained on."""

    held: NDArray[np.int64]
    """Numbers of these images."""
    segments: Segments
    train_mse: float
    windows: Windows


def train_fold(config: TrainConfig, scenes: Scenes, held: NDArray[np.int64], iterations: int) -> Fold:
    """Trains on all images but those held out."""
    others = np.setdiff1d(np.arange(len(scenes.images)), held)
    train, test = taken(scenes, others), taken(scenes, held)
    method = OurMethod(config, Dataset(train, test, test, "", "", ""), iterations)
    for iteration in range(1, iterations + 1):
        method.step()
        if iteration % 50 == 0 or iteration == iterations:
            print(f"{iteration}/{iterations}", file=sys.stderr, flush=True)
    windows = measure_windows(method.model, test.images)
    return Fold(held, method.segment(test.images), _error(method.segment(train.images), train), windows)


def _error(segments: Segments, scenes: Scenes) -> float:
    assert segments.canvases is not None
    return float(np.square(scenes.images / 255 - segments.canvases).mean())


def model_row(name: str, folds: list[Fold], scenes: Scenes) -> str:
    """The row of a variant, over the held-out images of all folds together."""
    seen = taken(scenes, np.concatenate([fold.held for fold in folds]))
    segments = joined([fold.segments for fold in folds])
    scores = score_segments(segments.owners, seen)
    train = np.mean([fold.train_mse for fold in folds])
    side = np.mean([fold.windows.side for fold in folds])
    spread = np.mean([fold.windows.spread for fold in folds])
    cells = [name, cell(scores.fg_ari), cell(scores.mbo), f"{_error(segments, seen):.4f}", f"{train:.4f}"]
    return f"| {' | '.join([*cells, f'{side:.1f}', f'{spread:.1f}'])} |"


def baseline_row(baseline: Baseline, scenes: Scenes, segments: int) -> str:
    """The row of what learns nothing, on the images that the variants are tested on."""
    scores = score_segments(partition(baseline, scenes.images, segments), scenes)
    return f"| {baseline}, {segments} | {cell(scores.fg_ari)} | {cell(scores.mbo)} | - | - | - | - |"


def draw(folds: list[Fold], scenes: Scenes, segments: int, count: int = 6) -> Image.Image:
    """Objects and segments of some held-out images, without the photos, which are not ours to show."""
    held = folds[0].held[:count]
    some = taken(scenes, held)
    assert some.masks is not None
    columns = {"objects": some.masks, "ours": folds[0].segments.owners[:count]}
    columns |= {str(each): partition(each, some.images, segments) for each in Baseline}
    rows = [
        [panel(owner_colours(np.asarray(owners[at], np.uint8)), 96) for owners in columns.values()]
        for at in range(len(held))
    ]
    return grid(rows, titles=list(columns))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="may be repeated; none: baselines alone")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--only-folds", type=int, help="train so many of them, where there is no time for all")
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--segments", type=int, default=6, help="of the baselines; an even number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=JSON", help="such as model.steps=9")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("experiments"))
    parser.add_argument("--cache-dir", type=Path, default=Path("experiments/data"))
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("SEQAE_DATA_DIR"), help="has coco128")
    return parser


def main() -> int:
    """Prints the table; returns the exit status."""
    given = _parser().parse_args()
    set_threads(given.threads)
    over: dict[str, Any] = {}
    for pair in given.set:
        path, _, value = pair.partition("=")
        over = merged(over, setting(path, parsed(value)))
    base = {"seed": given.seed, "data": PHOTOS, "schedule": {"batch_size": 16}}
    plain = TrainConfig.model_validate(merged(base, {"model": {"channels": 3}}))
    assert isinstance(plain.data, ImagesConfig)
    scenes = all_images(load_data(plain.data, plain.model, given.cache_dir, given.data_dir))
    order = np.random.default_rng(0).permutation(len(scenes.images)).astype(np.int64)
    parts = np.array_split(order, given.folds)[: given.only_folds]
    tested = taken(scenes, np.concatenate(parts))  # all images, if all folds are trained
    rows = [HEADER, *(baseline_row(each, tested, given.segments) for each in Baseline)]
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.variant or []:
        config = TrainConfig.model_validate(merged(merged(base, VARIANTS[name]), over))
        started = time.process_time()
        folds = [train_fold(config, scenes, held, given.iterations) for held in parts]
        minutes = (time.process_time() - started) / 60
        rows.append(model_row(name, folds, scenes))
        draw(folds, scenes, given.segments).save(given.out / f"photos-{name}.png")
        record = {"variant": name, "row": rows[-1], "iterations": given.iterations, "folds": len(parts)}
        record |= {"cpu_minutes": minutes, "config": config.model_dump(mode="json"), "machine": machine()}
        with (given.out / "photos.jsonl").open("a") as lines:
            lines.write(json.dumps(record) + "\n")
        print(f"{name}: {minutes:.1f} CPU minutes", file=sys.stderr, flush=True)
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
