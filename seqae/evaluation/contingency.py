"""Contingency tables of segments and objects, and what is read off them: adjusted Rand index, IoU, best matching.

All images at once, in numpy. Shape letters: M images, S segments, K objects at most in an image, H height, W width.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

__all__ = ["adjusted_rand", "best_overlaps", "contingency", "ious", "matched_overlaps"]

_CHUNK = 64  # images worked on at once, to bound memory

Floats = NDArray[np.float64]


def contingency(
    segments: NDArray[np.integer],
    masks: NDArray[np.uint8],
    counted: NDArray[np.bool_],
    shape: tuple[int, int] | None = None,
) -> NDArray[np.int64]:
    """Pixels [M, S, K + 1] by segment (0 is background) and object (0 is background), for each image.

    Args:
        segments: [M, H, W], 0..S-1.
        masks: [M, H, W], 0..K.
        counted: [M, H, W], the pixels that count.
        shape: S and K + 1; just large enough for these images when left out.
    """
    rows, columns = shape or (int(segments.max(initial=0)) + 1, int(masks.max(initial=0)) + 1)
    tables = np.zeros((len(masks), rows, columns), np.int64)
    for first in range(0, len(masks), _CHUNK):
        part = np.s_[first : first + _CHUNK]
        count = len(masks[part])
        cell = segments[part].astype(np.int64) * columns + masks[part]
        cell += np.arange(count)[:, None, None] * (rows * columns)
        found = np.bincount(cell[counted[part]], minlength=count * rows * columns)
        tables[part] = found.reshape(count, rows, columns)
    return tables


def adjusted_rand(tables: NDArray[np.int64]) -> Floats:
    """Adjusted Rand index [M] of each contingency table of [M, S, K]; 1 for an empty one, as for two equal partitions.

    The same as scikit-learn's `adjusted_rand_score`, for all images at once.
    """
    n = tables.astype(np.float64)
    total = n.sum(axis=(1, 2))
    same = (n**2).sum(axis=(1, 2))
    same_segment, same_object = (n.sum(axis=2) ** 2).sum(axis=1), (n.sum(axis=1) ** 2).sum(axis=1)
    # Ordered pairs of pixels: together in both, in one only, in the other only, in neither.
    both, split, merged = same - total, same_object - same, same_segment - same
    neither = total**2 - same - split - merged
    above = 2 * (both * neither - split * merged)
    below = (both + split) * (split + neither) + (both + merged) * (merged + neither)
    return np.where((split == 0) & (merged == 0), 1.0, above / np.where(below == 0, 1.0, below))


def ious(tables: NDArray[np.int64]) -> Floats:
    """Intersection over union [M, S - 1, K] of every segment with every object, background left out of both.

    Args:
        tables: [M, S, K + 1] as `contingency` gives it. Pixels of the background count in the unions.
    """
    inner = tables[:, 1:, 1:].astype(np.float64)
    sizes, objects = tables.sum(axis=2)[:, 1:, None], tables.sum(axis=1)[:, None, 1:]
    return np.asarray(inner / np.maximum(sizes + objects - inner, 1))


def matched_overlaps(overlaps: Floats, present: NDArray[np.bool_]) -> Floats:
    """IoU [M, K] of each object with the segment that the best one-to-one matching gives it; NaN for no object.

    Args:
        overlaps: [M, S, K].
        present: [M, K], objects that have a pixel; without a segment they get 0.
    """
    found = np.where(present, 0.0, np.nan)
    for row, (image, objects) in enumerate(zip(overlaps, present, strict=True)):
        segments, columns = linear_sum_assignment(image, maximize=True)
        found[row, columns] = np.where(objects[columns], image[segments, columns], np.nan)
    return found


def best_overlaps(overlaps: Floats, present: NDArray[np.bool_]) -> Floats:
    """IoU [M, K] of each object with the segment that fits it best, which may be another's too; NaN for no object.

    Args:
        overlaps: [M, S, K].
        present: [M, K], objects that have a pixel; without a segment they get 0.
    """
    return np.where(present, overlaps.max(axis=1, initial=0), np.nan)
