"""Baseline without a model: connected components of the thresholded image, scored as a model's segments are."""

import numpy as np
from scipy import ndimage

from seqae.data.mnist_scenes import VISIBLE
from seqae.data.scenes import Scenes
from seqae.evaluation.scores import OwnerScores, OwnerTables, object_count, score_owners, tabulate_owners

__all__ = ["connected_components"]

_CHUNK = 64  # images worked on at once, to bound memory


def connected_components(scenes: Scenes) -> OwnerScores:
    """Scores where each connected patch of visible pixels (corners count) is a segment.

    Args:
        scenes: images with their masks.

    Raises:
        ValueError: the scenes have no masks.
    """
    owners = np.zeros((len(scenes.images), *scenes.images.shape[2:]), np.int32)
    for row, image in enumerate(scenes.images):
        owners[row], _ = ndimage.label(image.max(axis=0) >= VISIBLE, structure=np.ones((3, 3), np.int8))
    segments, objects = int(owners.max(initial=0)), object_count(scenes)
    parts = [slice(first, first + _CHUNK) for first in range(0, len(owners), _CHUNK)]
    tables = [
        tabulate_owners(owners[part], scenes.part(part.start, part.stop), segments=segments, objects=objects)
        for part in parts
    ]
    return score_owners(OwnerTables.joined(tables))
