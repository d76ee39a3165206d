"""Scenes sampled from a variational model, above scenes that it was trained on."""

import numpy as np
from numpy.typing import NDArray

from seqae.figures.canvases import reconstruct
from seqae.figures.figure import Figure
from seqae.figures.layout import grid
from seqae.model import SequentialAutoEncoder
from seqae.rendering.panels import panel, quantize, to_bytes
from seqae.sampling import fit_layouts, sample_scenes

__all__ = ["sampled_scenes"]

_PANEL = 96  # pixels
_COLUMNS = 8
_ROWS = 3
_PARTS = (("prior", "z ~ N(0, I)", _ROWS), ("fitted", "z ~ fitted\nGaussian", 1), ("training", "training", 1))


def sampled_scenes(model: SequentialAutoEncoder, images: NDArray[np.uint8], seed: int = 0) -> Figure:
    """Rows of scenes with codes from the prior, a row with codes from a Gaussian fitted to real ones, and real scenes.

    Args:
        model: with the variational coder.
        images: uint8 [L, C, H, W], training images; windows are drawn from the writes that rebuild them.
        seed: of the samples.

    Returns:
        The figure. Its numbers: mean active writes in a scene; mean brightness, and the error of the model's own
        reconstruction, of samples of both kinds and of training scenes.

    Raises:
        SamplingError: the model's coder is not variational, or it writes nothing.
    """
    layouts = fit_layouts(model, images)
    count = _ROWS * _COLUMNS
    shown: dict[str, NDArray[np.float32]] = {
        "prior": sample_scenes(model, layouts, count, seed=seed).scenes,
        "fitted": sample_scenes(model, layouts, count, seed=seed, codes="fitted").scenes,
        "training": images[:count].astype(np.float32) / np.float32(255),
    }
    numbers = {"objects": float(layouts.active.sum(axis=1).mean())}
    for name, scenes in shown.items():
        clipped = quantize(scenes)
        numbers[f"brightness_{name}"] = float(clipped.mean() / 255)
        numbers[f"mse_{name}"] = float(reconstruct(model, clipped)[1][-1].mean())
    rows, labels = [], []
    for name, label, many in _PARTS:
        for row in range(many):
            part = shown[name][row * _COLUMNS : (row + 1) * _COLUMNS]
            rows.append([panel(to_bytes(scene), _PANEL) for scene in part])
            labels.append("" if row else label)
    caption = (
        "Scenes sampled from a model with the variational coder: codes from the unit Gaussian, windows from those of "
        "training scenes; below them codes from a Gaussian fitted to real codes, and training scenes."
    )
    return Figure(grid(rows, labels=labels), caption, numbers)
