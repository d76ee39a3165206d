"""Segmentation metrics of the writes: adjusted Rand index, matched IoU, counts, purity, completeness.

They need nothing but the step records, and masks that training never sees.

A pixel's segment is the write that did most to it, or 0 (background) where the canvas stays dark. Pixels of more than
one object say nothing about which write is right, and are left out everywhere.

Shape letters: M images, T writes, K objects at most in an image, S segments, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from seqae.data.mnist_scenes import VISIBLE
from seqae.data.scenes import Scenes

__all__ = [
    "CANVAS_THRESHOLD",
    "BaselineScores",
    "SegmentScores",
    "SegmentTables",
    "adjusted_rand",
    "choose_active_share",
    "connected_components_baseline",
    "contingency",
    "count_active",
    "matched_ious",
    "score_segments",
    "score_tables",
    "segment",
    "tabulate_segments",
]

CANVAS_THRESHOLD = 0.1
"""A pixel is background where the canvas, summed over channels, is darker; white is 1 per channel."""

_LEAST_ENERGY = 1.0  # of one white pixel: what an image needs, for shares of its energy to mean anything
_CHUNK = 64  # images worked on at once, to bound memory

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SegmentScores:
    """Means over images (or objects, or writes), each 0..1 and best at 1, but for `fg_ari`, which may fall below 0."""

    fg_ari: float
    """Adjusted Rand index on the objects' pixels, over images with two or more objects; 1 if there are none."""

    miou: float
    """Intersection over union of each object with the segment that the best one-to-one matching gives it."""

    count_accuracy: float
    """Images with as many active writes as objects. `active_share` is chosen on one half and used on the other."""

    purity: float
    """Largest share of one object in an active write's energy (its squares summed), over the active writes."""

    completeness: float
    """Largest share of one write in the energy that was written to an object, over the objects."""

    active_share: float
    """A write is active if it has more than this share of all writes' energy: as given, or chosen on all images."""


@dataclass(frozen=True)
class SegmentTables:
    """All that the scores need of images, object by object: a hundredth of what their pixels take."""

    contingency: NDArray[np.int64]
    """[M, T + 1, K + 1]: pixels by segment (0 is background) and object (0 is background)."""

    energy: Floats
    """[M, T, K + 1]: energy of each write on each object (0 is background)."""

    shared: Floats
    """[M, T]: energy of each write on the pixels that are left out."""

    counts: NDArray[np.int64]
    """[M]: objects."""

    @classmethod
    def joined(cls, parts: Sequence["SegmentTables"]) -> "SegmentTables":
        """Tables of parts of the images laid end to end; all must have been made for as many objects."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def fg_ari(self) -> Floats:
        """FG-ARI of each image, [M]; NaN where there are fewer than two objects, which can't be mixed up."""
        return np.where(self.counts >= 2, adjusted_rand(self.contingency[:, :, 1:]), np.nan)


@dataclass(frozen=True)
class BaselineScores:
    """The same metrics for the connected-components baseline, which needs no learning."""

    fg_ari: float
    miou: float
    count_accuracy: float


def score_segments(
    writes: NDArray[np.floating],
    canvases: NDArray[np.floating],
    scenes: Scenes,
    *,
    threshold: float = CANVAS_THRESHOLD,
    active_share: float | None = None,
) -> SegmentScores:
    """Scores the writes against the true objects.

    Args:
        writes: [M, T, H, W], absolute values summed over channels.
        canvases: [M, H, W], the last canvas summed over channels.
        scenes: the M images' masks, overlaps and counts.
        threshold: of the canvas, for background.
        active_share: chosen on other images; left out, it is chosen on each half of these and used on the other half.

    Raises:
        ValueError: the scenes have no masks, or there are more or fewer of them than writes.
    """
    return score_tables(tabulate_segments(writes, canvases, scenes, threshold=threshold), active_share)


def tabulate_segments(
    writes: NDArray[np.floating],
    canvases: NDArray[np.floating],
    scenes: Scenes,
    *,
    objects: int | None = None,
    threshold: float = CANVAS_THRESHOLD,
) -> SegmentTables:
    """Tables of images, which may be a part of those that are scored together.

    Args:
        writes: [M, T, H, W], absolute values summed over channels.
        canvases: [M, H, W], the last canvas summed over channels.
        scenes: the M images' masks, overlaps and counts.
        objects: K, where these scenes are a part of more: the highest number in the masks of all.
        threshold: of the canvas, for background.

    Raises:
        ValueError: the scenes have no masks, or there are more or fewer of them than writes.
    """
    masks, overlap, counts = _truth(scenes)
    if not len(writes) == len(canvases) == len(masks):
        raise ValueError(f"{len(writes)} images' writes, {len(canvases)} canvases and {len(masks)} masks")
    columns = 1 + (int(masks.max(initial=0)) if objects is None else objects)
    table = contingency(segment(writes, canvases, threshold), masks, overlap, (writes.shape[1] + 1, columns))
    return SegmentTables(table, *_energies(writes, masks, overlap, columns), counts)


def score_tables(tables: SegmentTables, active_share: float | None = None) -> SegmentScores:
    """Scores the images whose tables these are.

    Args:
        tables: of all the images.
        active_share: chosen on other images; left out, it is chosen on each half of these and used on the other half.
    """
    table, energy, counts = tables.contingency, tables.energy, tables.counts
    shares = _shares(energy.sum(axis=2) + tables.shared)
    if active_share is None:
        right = np.zeros(len(counts), np.bool_)
        halves = np.arange(len(counts)) % 2 == 0
        for here in (halves, ~halves):
            right[here] = count_active(shares[here], choose_active_share(shares[~here], counts[~here])) == counts[here]
        active_share = choose_active_share(shares, counts)
    else:
        right = count_active(shares, active_share) == counts
    purity, completeness = _purity_and_completeness(energy, table, shares > active_share)
    return SegmentScores(
        fg_ari=_mean(adjusted_rand(table[:, :, 1:])[counts >= 2]),
        miou=_mean(matched_ious(table)),
        count_accuracy=_mean(right),
        purity=purity,
        completeness=completeness,
        active_share=active_share,
    )


def connected_components_baseline(scenes: Scenes, least_pixels: int = 10) -> BaselineScores:
    """Scores of a baseline without a model: each connected patch of visible pixels (corners count) is one segment.

    Args:
        scenes: images with their masks.
        least_pixels: smaller patches are not counted as objects.

    Raises:
        ValueError: the scenes have no masks.
    """
    masks, overlap, counts = _truth(scenes)
    segments = np.zeros(masks.shape, np.int32)
    found = np.zeros(len(masks), np.int64)
    for row, image in enumerate(scenes.images):
        segments[row], _ = ndimage.label(image.max(axis=0) >= VISIBLE, structure=np.ones((3, 3), np.int8))
        found[row] = (np.bincount(segments[row].ravel())[1:] >= least_pixels).sum()
    table = contingency(segments, masks, overlap)
    return BaselineScores(
        fg_ari=_mean(adjusted_rand(table[:, :, 1:])[counts >= 2]),
        miou=_mean(matched_ious(table)),
        count_accuracy=_mean(found == counts),
    )


def segment(
    writes: NDArray[np.floating], canvases: NDArray[np.floating], threshold: float = CANVAS_THRESHOLD
) -> NDArray[np.int32]:
    """Each pixel's segment [M, H, W]: 1 + argmax over t of `writes` [M, T, H, W]; 0 where `canvases` stay dark."""
    return np.where(canvases > threshold, writes.argmax(axis=1) + 1, 0).astype(np.int32)


def contingency(
    segments: NDArray[np.integer],
    masks: NDArray[np.uint8],
    overlap: NDArray[np.bool_],
    shape: tuple[int, int] | None = None,
) -> NDArray[np.int64]:
    """Pixels [M, S, K + 1] by segment (0 is background) and object (0 is background), for each image.

    Args:
        segments: [M, H, W], 0..S-1.
        masks: [M, H, W], 0..K.
        overlap: [M, H, W], pixels to leave out.
        shape: S and K + 1; just large enough for these images when left out.
    """
    rows, columns = shape or (int(segments.max(initial=0)) + 1, int(masks.max(initial=0)) + 1)
    tables = np.zeros((len(masks), rows, columns), np.int64)
    for first in range(0, len(masks), _CHUNK):
        part = np.s_[first : first + _CHUNK]
        count = len(masks[part])
        cell = segments[part].astype(np.int64) * columns + masks[part]
        cell += np.arange(count)[:, None, None] * (rows * columns)
        counted = np.bincount(cell[~overlap[part]], minlength=count * rows * columns)
        tables[part] = counted.reshape(count, rows, columns)
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


def matched_ious(tables: NDArray[np.int64]) -> Floats:
    """Intersection over union of every object that has a pixel, over all images, with the segment matched to it.

    Args:
        tables: [M, S, K + 1] as `contingency` gives it; segment 0 and object 0 take no part in the matching.
    """
    inner = tables[:, 1:, 1:].astype(np.float64)
    sizes, objects = tables.sum(axis=2)[:, 1:, None], tables.sum(axis=1)[:, None, 1:]
    union = np.maximum(sizes + objects - inner, 1)
    found = []
    for iou, pixels in zip(inner / union, objects[:, 0], strict=True):
        scores = np.zeros(len(pixels))
        rows, columns = linear_sum_assignment(iou, maximize=True)
        scores[columns] = iou[rows, columns]
        found.append(scores[pixels > 0])
    return np.concatenate(found) if found else np.zeros(0)


def count_active(shares: Floats, active_share: float) -> NDArray[np.int64]:
    """Writes [M] with a larger share of their image's energy; `shares` is [M, T]."""
    return np.asarray((shares > active_share).sum(axis=1), np.int64)


def choose_active_share(shares: Floats, counts: NDArray[np.int64]) -> float:
    """The threshold that gets most counts right: the middle of the widest range of equally good ones.

    Args:
        shares: [M, T], each write's share of its image's energy.
        counts: [M], objects.
    """
    steps = shares.shape[1]
    ordered = np.sort(shares, axis=1)[:, ::-1]
    ladder = np.concatenate([np.ones((len(shares), 1)), ordered, np.zeros((len(shares), 1))], axis=1)
    usable = np.flatnonzero(counts <= steps)  # no threshold finds more objects than there are writes
    # An image is counted right by a threshold from `low` (its first write that must not be active) up to `high`.
    high, low = ladder[usable, counts[usable]], ladder[usable, counts[usable] + 1]
    edges = np.concatenate([low, high, [0.0, 1.0]])
    change = np.concatenate([np.ones(len(low)), -np.ones(len(high)), [0.0, 0.0]])
    places, at = np.unique(edges, return_inverse=True)
    right = np.cumsum(np.bincount(at, weights=change))[:-1]  # images right between one place and the next
    width = np.where(right == right.max(), np.diff(places), 0)
    best = int(width.argmax())
    return float((places[best] + places[best + 1]) / 2)


def _truth(scenes: Scenes) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.int64]]:
    if scenes.masks is None or scenes.overlap is None or scenes.counts is None:
        raise ValueError("these images have no masks to score against")
    return scenes.masks, scenes.overlap, scenes.counts


def _energies(
    writes: NDArray[np.floating], masks: NDArray[np.uint8], overlap: NDArray[np.bool_], objects: int
) -> tuple[Floats, Floats]:
    """Energy [M, T, `objects`] of each write on each object (0 is background), and [M, T] on the pixels left out."""
    many, steps = writes.shape[:2]
    energy, shared = np.zeros((many, steps, objects)), np.zeros((many, steps))
    for first in range(0, many, _CHUNK):
        part = np.s_[first : first + _CHUNK]
        squares = np.square(writes[part], dtype=np.float32).reshape(len(writes[part]), steps, -1)
        owner = np.where(overlap[part], objects, masks[part].astype(np.int64)).reshape(len(squares), -1, 1)
        on = squares @ (owner == np.arange(objects + 1)).astype(np.float32)
        energy[part], shared[part] = on[:, :, :objects], on[:, :, objects]
    return energy, shared


def _shares(energy: Floats) -> Floats:
    """Each write's share [M, T] of its image's energy. Noise on an image that is all dark gets next to nothing."""
    return np.asarray(energy / np.maximum(energy.sum(axis=1, keepdims=True), _LEAST_ENERGY))


def _purity_and_completeness(
    energy: Floats, table: NDArray[np.int64], active: NDArray[np.bool_]
) -> tuple[float, float]:
    on_objects = energy[:, :, 1:]
    of_write = on_objects.max(axis=2, initial=0) / np.maximum(energy.sum(axis=2), 1e-12)
    of_object = on_objects.max(axis=1, initial=0) / np.maximum(on_objects.sum(axis=1), 1e-12)
    return _mean(of_write[active]), _mean(of_object[table.sum(axis=1)[:, 1:] > 0])


def _mean(values: Floats | NDArray[np.bool_]) -> float:
    """The mean; 1 for nothing at all, since nothing was wrong."""
    return float(np.mean(values)) if values.size else 1.0
