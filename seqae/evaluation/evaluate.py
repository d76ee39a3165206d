"""Evaluation on images of one split: reconstruction error of every step, and segmentation metrics."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from seqae.compute.cpu_threads import flush_denormals
from seqae.data.scenes import Scenes
from seqae.evaluation.objective import objective
from seqae.evaluation.scores import object_count
from seqae.evaluation.segment_scores import SegmentScores, SegmentTables, score_tables, tabulate
from seqae.losses import step_errors
from seqae.model import Output, SequentialAutoEncoder
from seqae.segmentation.looks import LOOKS, look_again
from seqae.segmentation.ownership import own_pixels
from seqae.tensors import intensities

__all__ = ["Evaluation", "PerImage", "evaluate"]

_BATCH = 50
_BATCH_VALUES = 2**24
"""Values that the writes of one batch may have, so that long models of large images are evaluated a few at a time; the
segments take several times as much memory meanwhile."""


@dataclass(frozen=True)
class PerImage:
    """Scores image by image, in the order of the split: what two models are compared by, in pairs."""

    mse: NDArray[np.float64]
    """[M]: mean squared error of the last canvas."""

    fg_ari: NDArray[np.float64]
    """[M]: adjusted Rand index on the objects' pixels after looking again; NaN without masks, and with fewer than two
    objects."""


@dataclass(frozen=True)
class Evaluation:
    """Means over images of one split. Errors are mean squared errors of intensities in 0..1."""

    iteration: int
    epoch: float
    empty_mse: float
    """Of an empty canvas."""
    step_mse: tuple[float, ...]
    """Of c_0..c_T, T+1 of them; c_0 is the empty canvas, or the background network's."""
    mse: float
    """Of the last canvas."""
    segments: SegmentScores | None
    """How well the segments match the objects; None where the images have no masks."""
    per_image: PerImage = field(compare=False, repr=False)
    """The same image by image."""

    def metrics(self) -> dict[str, float]:
        """Everything as flat numbers under bare names, with the objective, for logs and checkpoints."""
        flat = {"empty_mse": self.empty_mse, "mse": self.mse}
        flat |= {f"mse_step_{t}": error for t, error in enumerate(self.step_mse)}
        flat |= self.segments.metrics() if self.segments else {}
        return flat | {"objective": objective(flat)}


def evaluate(
    model: SequentialAutoEncoder,
    scenes: Scenes,
    *,
    steps: int,
    limit: int,
    iteration: int,
    epoch: float,
    active_share: float | None = None,
    looks: int = LOOKS,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Reconstructs images and scores the canvases and the writes.

    Memory is bounded by a batch, however many images there are.

    Args:
        model: in any mode; it is put back into it.
        scenes: of one split.
        steps: T.
        limit: at most so many of the first images are used.
        iteration: of the training run, for the record.
        epoch: likewise.
        active_share: threshold of the counts that was chosen on other images: on `val`, for `test`. Left out, it is
            chosen on these, each half for the other.
        looks: how often each active write is encoded again for the segments (`seqae.segmentation.looks`).
        progress: called after each batch with the images done and all.
    """
    flush_denormals()
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    count = min(limit, len(scenes.images))
    batch = max(1, min(_BATCH, _BATCH_VALUES // (steps * scenes.images[0].size)))
    errors: list[NDArray[np.float64]] = []  # [T + 1, b] each
    empty: list[NDArray[np.float64]] = []  # [b] each
    tables: list[SegmentTables] = []
    objects = object_count(scenes.first(count))
    with torch.inference_mode():
        for first in range(0, count, batch):
            some = scenes.part(first, min(first + batch, count))
            image = intensities(some.images, device)
            output: Output = model(image, steps)
            empty.append(image.square().mean(dim=(1, 2, 3)).double().cpu().numpy())
            errors.append(step_errors(image, output).double().cpu().numpy())
            if scenes.masks is not None:
                first_owned = own_pixels(image, output, has_background=model.background is not None)
                last_owned = look_again(model, image, output, first_owned, looks)
                tables.append(tabulate(first_owned, last_owned, some, objects=objects))
            if progress is not None:
                progress(first + len(some.images), count)
    model.train(was_training)
    each, nothing = np.concatenate(errors, axis=1), np.concatenate(empty)
    joined = SegmentTables.joined(tables) if tables else None
    step_mse = tuple(float(error) for error in each.mean(axis=1))
    return Evaluation(
        iteration=iteration,
        epoch=epoch,
        empty_mse=float(nothing.mean()),
        step_mse=step_mse,
        mse=step_mse[-1],
        segments=score_tables(joined, active_share) if joined else None,
        per_image=PerImage(
            mse=each[-1],
            fg_ari=joined.of_looks.fg_ari() if joined else np.full(count, np.nan),
        ),
    )
