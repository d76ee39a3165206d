"""Scenes that are simple enough to be scored by hand, and owners of their pixels."""

import numpy as np
from numpy.typing import NDArray

from seqae.data.scenes import Scenes
from seqae.evaluation.scores import OwnerScores, object_count, score_owners, tabulate_owners

SQUARE = 16  # pixels


def squares(count: int) -> Scenes:
    """One image [1, 1, 8, 16] with `count` white squares of 4 x 4 in a row, at most four; neighbours touch."""
    mask = np.zeros((1, 8, 16), np.uint8)
    for k in range(count):
        mask[0, 2:6, 4 * k : 4 * k + 4] = k + 1
    images = np.where(mask > 0, 255, 0).astype(np.uint8)[:, None]
    amodal = np.where(mask > 0, 1 << np.maximum(mask.astype(np.int64) - 1, 0), 0).astype(np.uint16)
    overlap = np.zeros(mask.shape, np.bool_)
    return Scenes(images, mask, overlap, counts=np.array([count]), amodal=amodal)


def masks_of(scenes: Scenes) -> NDArray[np.uint8]:
    assert scenes.masks is not None
    return scenes.masks


def overlap_of(scenes: Scenes) -> NDArray[np.bool_]:
    assert scenes.overlap is not None
    return scenes.overlap


def counts_of(scenes: Scenes) -> NDArray[np.int64]:
    assert scenes.counts is not None
    return scenes.counts


def perfect(scenes: Scenes, steps: int = 6) -> NDArray[np.float32]:
    """Writes [M, T, H, W] of a model that writes object k whole at step k, and nothing else."""
    owner = masks_of(scenes)[:, None] == np.arange(1, steps + 1)[:, None, None]
    return np.asarray(scenes.images / 255 * owner, np.float32)


def score(owners: NDArray[np.integer], scenes: Scenes, segments: int = 6) -> OwnerScores:
    return score_owners(tabulate_owners(owners, scenes, segments=segments, objects=object_count(scenes)))
