"""Interface of the methods that are compared: one optimizer step at a time, and segments of images."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqae.errors import DivergedError
from seqae.evaluation.scores import OWNED_PIXELS
from seqae.tensors import intensities

__all__ = [
    "BATCH",
    "Method",
    "Segments",
    "batches",
    "check_finite",
    "count_owned",
    "count_parameters",
    "half_cosine",
    "joined",
]

BATCH = 50
"""Images in one batch of an evaluation."""

Bytes = NDArray[np.uint8]


class Segments(NamedTuple):
    """What a method makes of M images."""

    owners: NDArray[np.integer]
    """[M, H, W], each pixel's segment from 1 on; 0 is background."""

    counts: NDArray[np.int64]
    """[M], objects that the method itself counts; where it has no way to, its segments of 10 pixels or more."""

    canvases: NDArray[np.float32] | None
    """[M, C, H, W], the images as rebuilt, of intensities; None where nothing is rebuilt."""


class Method(Protocol):
    """A method on one set of scenes."""

    @property
    def parameters(self) -> int:
        """Learned numbers; 0 for a method that does not learn and is never stepped."""

    def step(self) -> None:
        """One optimizer step on its next batch of training images.

        Raises:
            DivergedError: the loss is not finite.
        """

    def segment(self, images: Bytes) -> Segments:
        """Segments of images [M, C, H, W]; the same each time for the same weights."""


def batches(images: Bytes, size: int, seed: int) -> Iterator[Tensor]:
    """Batches [size, C, H, W] of intensities for ever: epochs are permutations of the images, laid end to end."""
    rng, order = np.random.default_rng(seed), np.empty(0, np.int64)
    while True:
        while len(order) < size:
            order = np.concatenate([order, rng.permutation(len(images))])
        chosen, order = order[:size], order[size:]
        yield intensities(images[chosen])


def half_cosine(done: int, iterations: int) -> float:
    """Learning rate as a share of its peak: half a cosine to 0 over the run."""
    return 0.5 * (1 + float(np.cos(np.pi * min(done / max(iterations, 1), 1.0))))


def check_finite(loss: Tensor | float, iteration: int, what: str = "loss") -> None:
    """Stops a run whose loss, or the norm of its gradient, is not a number any more.

    Raises:
        DivergedError: it is not.
    """
    value = float(loss.detach()) if isinstance(loss, Tensor) else loss
    if not np.isfinite(value):
        raise DivergedError(f"the {what} is {value} at iteration {iteration}")


def count_owned(owners: NDArray[np.integer]) -> NDArray[np.int64]:
    """Segments [M] of `OWNED_PIXELS` pixels or more, of owners [M, H, W]."""
    return np.array([(np.bincount(image.ravel())[1:] >= OWNED_PIXELS).sum() for image in owners], np.int64)


def joined(parts: list[Segments]) -> Segments:
    """Segments of parts of the images laid end to end."""
    canvases = [part.canvases for part in parts if part.canvases is not None]
    return Segments(
        np.concatenate([part.owners for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate(canvases) if canvases else None,
    )


def count_parameters(module: torch.nn.Module) -> int:
    """Learned numbers of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
