"""Baselines that learn nothing, as methods: connected components and k-means of the foreground."""

import numpy as np
from numpy.typing import NDArray

from seqae.data.cache import Dataset
from seqae.evaluation.baselines import connected_components, find_foreground, kmeans, score_segments
from seqae.peers.method import Segments, count_owned

__all__ = ["ComponentsMethod", "KmeansMethod"]

_CHOSEN_ON = 60  # scenes of `val`


class _Unlearned:
    """What both have in common."""

    @property
    def parameters(self) -> int:
        """None are learned."""
        return 0

    def step(self) -> None:
        """Learns nothing."""


class ComponentsMethod(_Unlearned):
    """Connected components of what differs from the border's median colour."""

    def segment(self, images: NDArray[np.uint8]) -> Segments:
        """A segment for each connected patch."""
        owners = connected_components(images)
        return Segments(owners, count_owned(owners), None)


class KmeansMethod(_Unlearned):
    """K-means on colour and place of the foreground; k is what has the best FG-ARI on scenes of `val`.

    Args:
        data: the scenes.
        most: largest k that is tried.
    """

    def __init__(self, data: Dataset, most: int) -> None:
        some = data.val.first(_CHOSEN_ON)
        foreground = find_foreground(some.images)
        scores = [
            score_segments(kmeans(some.images, k, foreground), some).fg_ari.mean for k in range(2, max(most, 2) + 1)
        ]
        self.segments = 2 + int(np.argmax(scores))

    def segment(self, images: NDArray[np.uint8]) -> Segments:
        """At most k segments an image."""
        owners = kmeans(images, self.segments, find_foreground(images))
        return Segments(owners, count_owned(owners), None)
