"""Batches: which images an iteration takes, and which of them each worker computes.

The global batch of an iteration is a function of (seed, iteration) alone. Workers take contiguous shares of it, and a
worker that runs out of memory cuts its share into contiguous pieces; either way an image keeps its place in the batch.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

__all__ = ["BatchSampler", "split"]


class BatchSampler:
    """Sampler of batches: epochs are permutations of the images, laid end to end.

    Args:
        seed: of the permutations.
        images: in the training set.
        device: where the indices shall be.
    """

    def __init__(self, seed: int, images: int, device: torch.device) -> None:
        self._seed, self._images, self._device = seed, images, device
        self._newest: tuple[int, Tensor] | None = None

    def _permutation(self, epoch: int) -> Tensor:
        """The order of an epoch, made and copied to the device once: a copy for each batch would make a GPU wait."""
        if self._newest is None or self._newest[0] != epoch:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._images)
            self._newest = (epoch, torch.from_numpy(order).to(self._device))
        return self._newest[1]

    def batch(self, iteration: int, size: int) -> Tensor:
        """Indices of the images of one global batch, [size], on the device."""
        first = iteration * size
        taken: list[Tensor] = []
        while size > 0:
            epoch, at = divmod(first, self._images)
            part = self._permutation(epoch)[at : at + size]
            taken.append(part)
            first += len(part)
            size -= len(part)
        return torch.cat(taken)


def split(rows: range, parts: int, *, pairs: bool) -> Iterator[range]:
    """Cuts consecutive rows of a batch into parts of nearly the same size; with too few rows some parts are empty.

    Args:
        rows: to cut.
        parts: how many.
        pairs: keep together the rows that lend each other objects (`seqae.copy_paste.partners`).
    """
    unit = 2 if pairs else 1
    count = max(1, len(rows) // unit) if rows else 0
    odd = len(rows) - count * unit  # the first group is larger by so much
    bounds = [part * count // parts for part in range(parts + 1)]
    places = [rows.start + (unit * bound + odd if bound else 0) for bound in bounds]
    return (range(first, last) for first, last in pairwise(places))
