"""Segmentation scores of owned pixels: adjusted Rand index, matched and best IoU, counts, each with its standard error.

They need the owner of each pixel, and masks that training never sees. A model's writes, its looks, another method and
a baseline are all scored here, by the same rule.

Shape letters: M images, S segments at most in an image, K objects at most, H height, W width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqae.data.scenes import Scenes
from seqae.evaluation.contingency import adjusted_rand, best_overlaps, contingency, ious, matched_overlaps

__all__ = [
    "OWNED_PIXELS",
    "SCORING_VERSION",
    "OwnerScores",
    "OwnerTables",
    "Score",
    "mean_score",
    "object_count",
    "score_owners",
    "tabulate_owners",
]

SCORING_VERSION = 2
"""Goes up whenever the same writes would get another `fg_ari`: scores compare only where it is the same. 1: pixels
went to the strongest of all writes, where the canvas was bright. 2: to the strongest of the active writes after
looking again, where the image differs from the canvas at the start."""

OWNED_PIXELS = 10
"""A segment counts as an object if it has at least so many pixels."""

Floats = NDArray[np.float64]


class Score(NamedTuple):
    """A mean over images or objects, and how sure it is."""

    mean: float
    """Best at 1; 1 for nothing at all, since nothing was wrong."""

    standard_error: float | None
    """Of the mean, over images: objects of one image are not independent. None for fewer than two images."""


@dataclass(frozen=True)
class OwnerScores:
    """How far the segments are the objects; best at 1."""

    fg_ari: Score
    """Adjusted Rand index on the pixels of one object alone, over images with two or more objects."""

    fg_ari_all: Score
    """The same with the pixels of several objects, which belong to the topmost one."""

    miou: Score
    """Intersection over union of each object with the segment that the best one-to-one matching gives it, without the
    pixels of several objects."""

    mbo: Score
    """Mean best overlap: the same with the segment that fits each object best, whichever other object it fits too."""

    count_accuracy_owned: Score
    """Images with as many segments of `OWNED_PIXELS` pixels or more as objects."""

    miou_whole: Score | None
    """As `miou`, of whole objects, with what others hide of them, and whole segments, with what they show below others.
    None where the data does not know what is hidden."""

    def named(self) -> dict[str, Score]:
        """The scores that there are, by their names."""
        given = {
            "fg_ari": self.fg_ari,
            "fg_ari_all": self.fg_ari_all,
            "miou": self.miou,
            "mbo": self.mbo,
            "count_accuracy_owned": self.count_accuracy_owned,
            "miou_whole": self.miou_whole,
        }
        return {name: score for name, score in given.items() if score is not None}


@dataclass(frozen=True)
class OwnerTables:
    """All that the scores need of images, object by object: a hundredth of what their pixels take."""

    alone: NDArray[np.int64]
    """[M, S + 1, K + 1]: pixels of one object at most, by segment and object; 0 is background in both."""

    shared: NDArray[np.int64]
    """[M, S + 1, K + 1]: pixels of several objects, by segment and topmost object. Those of crowds have object 0."""

    counts: NDArray[np.int64]
    """[M]: objects."""

    whole: Floats | None
    """[M, S, K]: IoU of whole segments with whole objects, NaN for no object; None where these are not known."""

    @classmethod
    def joined(cls, parts: Sequence["OwnerTables"]) -> "OwnerTables":
        """Tables of parts of the images laid end to end; all must have been made for as many objects and segments."""
        wholes = [part.whole for part in parts if part.whole is not None]
        return cls(
            alone=np.concatenate([part.alone for part in parts]),
            shared=np.concatenate([part.shared for part in parts]),
            counts=np.concatenate([part.counts for part in parts]),
            whole=np.concatenate(wholes) if len(wholes) == len(parts) else None,
        )

    def fg_ari(self) -> Floats:
        """FG-ARI of each image, [M]; NaN where there are fewer than two objects, which can't be mixed up."""
        return np.where(self.counts >= 2, adjusted_rand(self.alone[:, :, 1:]), np.nan)


def object_count(scenes: Scenes) -> int:
    """K of scenes: the most objects in one of them, 0 without masks."""
    if scenes.masks is None or scenes.counts is None:
        return 0
    return max(int(scenes.masks.max(initial=0)), int(scenes.counts.max(initial=0)))


def tabulate_owners(
    owners: NDArray[np.integer],
    scenes: Scenes,
    *,
    segments: int,
    supports: NDArray[np.bool_] | None = None,
    objects: int | None = None,
) -> OwnerTables:
    """Tables of images, which may be a part of those that are scored together.

    Args:
        owners: [M, H, W], each pixel's segment from 1 to S; 0 is background.
        scenes: the M images' masks, overlaps and counts.
        segments: S.
        supports: [M, S, H, W], whole segments, which may overlap; what each owns when left out.
        objects: K, where these scenes are a part of more.

    Raises:
        ValueError: the scenes have no masks, or there are more or fewer of them than owners.
    """
    if scenes.masks is None or scenes.overlap is None or scenes.counts is None:
        raise ValueError("these images have no masks to score against")
    if len(owners) != len(scenes.masks):
        raise ValueError(f"{len(owners)} images' owners and {len(scenes.masks)} masks")
    known = object_count(scenes) if objects is None else objects
    shape = (segments + 1, known + 1)
    whole = None
    if scenes.amodal is not None:
        if supports is None:
            supports = owners[:, None] == np.arange(1, segments + 1)[:, None, None]
        whole = _whole_ious(supports, scenes.amodal, known)
    return OwnerTables(
        alone=contingency(owners, scenes.masks, ~scenes.overlap, shape),
        shared=contingency(owners, scenes.masks, scenes.overlap, shape),
        counts=scenes.counts,
        whole=whole,
    )


def score_owners(tables: OwnerTables) -> OwnerScores:
    """Scores the images whose tables these are."""
    several = tables.counts >= 2
    present = tables.alone.sum(axis=1)[:, 1:] > 0
    overlaps = ious(tables.alone)
    every = tables.alone + tables.shared
    segments = (every.sum(axis=2)[:, 1:] >= OWNED_PIXELS).sum(axis=1)
    whole = None
    if tables.whole is not None:
        known = np.asarray(~np.isnan(tables.whole).all(axis=1))
        whole = mean_score(matched_overlaps(np.nan_to_num(tables.whole), known))
    return OwnerScores(
        fg_ari=mean_score(adjusted_rand(tables.alone[several][:, :, 1:])),
        fg_ari_all=mean_score(adjusted_rand(every[several][:, :, 1:])),
        miou=mean_score(matched_overlaps(overlaps, present)),
        mbo=mean_score(best_overlaps(overlaps, present)),
        count_accuracy_owned=mean_score(segments == tables.counts),
        miou_whole=whole,
    )


def mean_score(values: NDArray[np.floating] | NDArray[np.bool_]) -> Score:
    """The mean of all values, and its standard error where the values of one image belong together.

    The error is that of a ratio of two sums over images; with one value an image it is the usual one, the standard
    deviation (n - 1) over the root of n.

    Args:
        values: [M] or [M, K]; NaN is left out.
    """
    each = np.asarray(values, np.float64)
    each = each[:, None] if each.ndim == 1 else each
    given = (~np.isnan(each)).sum(axis=1)
    sums, given = np.nansum(each, axis=1)[given > 0], given[given > 0]
    if not len(given):
        return Score(1.0, None)
    mean = float(sums.sum() / given.sum())
    if len(given) < 2:
        return Score(mean, None)
    squares = float(np.square(sums - mean * given).sum()) * len(given) / (len(given) - 1)
    return Score(mean, math.sqrt(squares) / float(given.sum()))


def _whole_ious(supports: NDArray[np.bool_], amodal: NDArray[np.uint16], objects: int) -> Floats:
    """IoU [M, S, K] of each segment's support [M, S, H, W] with each whole object; NaN for no object."""
    many, segments = supports.shape[:2]
    bits = np.arange(objects, dtype=np.uint16)
    shown = supports.reshape(many, segments, -1).astype(np.float32)
    inside = ((amodal.reshape(many, -1, 1) >> bits) & 1).astype(np.float32)  # [M, H * W, K]
    both = (shown @ inside).astype(np.float64)
    sizes, whole = shown.sum(axis=2)[:, :, None], inside.sum(axis=1)[:, None]
    return np.where(whole > 0, both / np.maximum(sizes + whole - both, 1), np.nan)
