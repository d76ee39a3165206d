"""Evaluation on the test images: reconstruction error of every step, and segmentation metrics."""

from dataclasses import asdict, dataclass

import numpy as np
import torch

from seqae.data.scenes import Scenes
from seqae.evaluation.segmentation import SegmentScores, score_segments
from seqae.losses import step_errors
from seqae.model import Output, SequentialAutoEncoder
from seqae.tensors import intensities

__all__ = ["Evaluation", "evaluate"]

_BATCH = 50


@dataclass(frozen=True)
class Evaluation:
    """Means over the test images. Errors are mean squared errors of intensities in 0..1."""

    iteration: int
    epoch: float
    empty_mse: float
    """Of an empty canvas."""
    step_mse: tuple[float, ...]
    """Of c_0..c_T, T+1 of them; c_0 is the empty canvas, or the background network's."""
    test_mse: float
    """Of the last canvas."""
    segments: SegmentScores | None
    """How well the writes match the objects; None where the images have no masks."""

    def metrics(self) -> dict[str, float]:
        """Everything as flat numbers, for logs and checkpoints."""
        flat = {"empty_mse": self.empty_mse, "test_mse": self.test_mse}
        flat |= {f"mse_step_{t}": error for t, error in enumerate(self.step_mse)}
        return flat | (asdict(self.segments) if self.segments else {})


def evaluate(
    model: SequentialAutoEncoder, scenes: Scenes, *, steps: int, limit: int, iteration: int, epoch: float
) -> Evaluation:
    """Reconstructs test images and scores the canvases and the writes.

    Args:
        model: in any mode; it is put back into it.
        scenes: the test split.
        steps: T.
        limit: at most so many of the first images are used.
        iteration: of the training run, for the record.
        epoch: likewise.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    count = min(limit, len(scenes.images))
    errors: list[np.ndarray] = []
    writes: list[np.ndarray] = []
    canvases: list[np.ndarray] = []
    empty = 0.0
    with torch.inference_mode():
        for first in range(0, count, _BATCH):
            image = intensities(scenes.images[first : min(first + _BATCH, count)], device)
            output: Output = model(image, steps)
            empty += float(image.square().mean(dim=(1, 2, 3)).sum())
            errors.append(step_errors(image, output).cpu().numpy())
            if scenes.masks is not None:
                writes.append(output.writes.abs().sum(dim=2).movedim(0, 1).cpu().numpy())  # [b, T, H, W]
                canvases.append(output.canvas.sum(dim=1).cpu().numpy())  # [b, H, W]
    model.train(was_training)
    step_mse = np.concatenate(errors, axis=1).mean(axis=1)
    segments = None
    if scenes.masks is not None:
        segments = score_segments(np.concatenate(writes), np.concatenate(canvases), scenes.first(count))
    return Evaluation(
        iteration=iteration,
        epoch=epoch,
        empty_mse=empty / count,
        step_mse=tuple(float(error) for error in step_mse),
        test_mse=float(step_mse[-1]),
        segments=segments,
    )
