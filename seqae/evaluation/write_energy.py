"""Scores of writes by their energy: counts of objects, purity, completeness.

A write's energy is the sum of its squares. Pixels of more than one object say nothing about which write is right, so
purity and completeness leave them out.

Shape letters: M images, T writes, K objects at most in an image, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqae.data.scenes import Scenes
from seqae.evaluation.scores import Score, mean_score

__all__ = ["EnergyScores", "EnergyTables", "choose_active_share", "count_active", "score_energy", "tabulate_energy"]

_LEAST_ENERGY = 1.0  # of one white pixel: what an image needs, for shares of its energy to mean anything
_CHUNK = 64  # images worked on at once, to bound memory

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EnergyScores:
    """Means over images, writes or objects, each 0..1 and best at 1."""

    count_accuracy: Score
    """Images with as many writes over `active_share` as objects."""

    purity: float
    """Largest share of one object in an active write's energy, over the active writes."""

    completeness: float
    """Largest share of one write in the energy that was written to an object, over the objects."""

    active_share: float
    """A write is counted if it has more than this share of all writes' energy: as given, or chosen on all images. Where
    it is chosen, counts use what each half of the images chose for the other."""


@dataclass(frozen=True)
class EnergyTables:
    """All that these scores need of images."""

    energy: Floats
    """[M, T, K + 1]: energy of each write on each object (0 is background)."""

    shared: Floats
    """[M, T]: energy of each write on the pixels that are left out."""

    pixels: NDArray[np.int64]
    """[M, K + 1]: pixels of each object that are not left out."""

    counts: NDArray[np.int64]
    """[M]: objects."""

    @classmethod
    def joined(cls, parts: Sequence["EnergyTables"]) -> "EnergyTables":
        """Tables of parts of the images laid end to end; all must have been made for as many objects."""
        return cls(
            energy=np.concatenate([part.energy for part in parts]),
            shared=np.concatenate([part.shared for part in parts]),
            pixels=np.concatenate([part.pixels for part in parts]),
            counts=np.concatenate([part.counts for part in parts]),
        )


def tabulate_energy(writes: NDArray[np.floating], scenes: Scenes, *, objects: int) -> EnergyTables:
    """Tables of images, which may be a part of those that are scored together.

    Args:
        writes: [M, T, H, W], absolute values summed over channels.
        scenes: the M images' masks, overlaps and counts.
        objects: K, of all scenes that are scored together.

    Raises:
        ValueError: the scenes have no masks, or there are more or fewer of them than writes.
    """
    if scenes.masks is None or scenes.overlap is None or scenes.counts is None:
        raise ValueError("these images have no masks to score against")
    if len(writes) != len(scenes.masks):
        raise ValueError(f"{len(writes)} images' writes and {len(scenes.masks)} masks")
    many, steps, columns = *writes.shape[:2], objects + 1
    energy, shared = np.zeros((many, steps, columns)), np.zeros((many, steps))
    pixels = np.zeros((many, columns), np.int64)
    for first in range(0, many, _CHUNK):
        part = np.s_[first : first + _CHUNK]
        squares = np.square(writes[part], dtype=np.float32).reshape(len(writes[part]), steps, -1)
        owner = np.where(scenes.overlap[part], columns, scenes.masks[part].astype(np.int64)).reshape(
            len(squares), -1, 1
        )
        there = owner == np.arange(columns + 1)
        on = squares @ there.astype(np.float32)
        energy[part], shared[part] = on[:, :, :columns], on[:, :, columns]
        pixels[part] = there.sum(axis=1)[:, :columns]
    return EnergyTables(energy, shared, pixels, scenes.counts)


def score_energy(tables: EnergyTables, active_share: float | None = None) -> EnergyScores:
    """Scores the images whose tables these are.

    Args:
        tables: of all the images.
        active_share: chosen on other images; left out, it is chosen on each half of these and used on the other half.
    """
    energy, counts = tables.energy, tables.counts
    shares = _shares(energy.sum(axis=2) + tables.shared)
    if active_share is None:
        right = np.zeros(len(counts), np.bool_)
        halves = np.arange(len(counts)) % 2 == 0
        for here in (halves, ~halves):
            right[here] = count_active(shares[here], choose_active_share(shares[~here], counts[~here])) == counts[here]
        active_share = choose_active_share(shares, counts)
    else:
        right = count_active(shares, active_share) == counts
    on_objects = energy[:, :, 1:]
    of_write = on_objects.max(axis=2, initial=0) / np.maximum(energy.sum(axis=2), 1e-12)
    of_object = on_objects.max(axis=1, initial=0) / np.maximum(on_objects.sum(axis=1), 1e-12)
    return EnergyScores(
        count_accuracy=mean_score(right),
        purity=_mean(of_write[shares > active_share]),
        completeness=_mean(of_object[tables.pixels[:, 1:] > 0]),
        active_share=active_share,
    )


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


def _shares(energy: Floats) -> Floats:
    """Each write's share [M, T] of its image's energy. Noise on an image that is all dark gets next to nothing."""
    return np.asarray(energy / np.maximum(energy.sum(axis=1, keepdims=True), _LEAST_ENERGY))


def _mean(values: Floats) -> float:
    """The mean; 1 for nothing at all, since nothing was wrong."""
    return float(np.mean(values)) if values.size else 1.0
