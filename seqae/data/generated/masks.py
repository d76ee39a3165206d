"""Scenes of flat objects laid over each other, with their visible and amodal masks."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seqae.data.scenes import Scenes
from seqae.data.splits import Split

__all__ = ["STREAMS", "FlatObject", "empty_scenes", "hidden_shares", "paint_scene", "random_colours", "stream_of"]

STREAMS: dict[Split, int] = {"train": 0, "test": 1, "val": 2}
"""Numbers of the splits' random streams."""

_GREY = (160, 255)  # levels of an object in a grey image


@dataclass(frozen=True)
class FlatObject:
    """One object of one colour, where it lies in the image."""

    coverage: NDArray[np.uint8]
    """[h, w]: how much of a pixel it covers, of 255. A pixel is the object's from 128 on."""
    top: int
    left: int
    label: int
    """What it is."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Pixels of the object within its box, [h, w]."""
        return self.coverage >= 128

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that its box takes up."""
        height, width = self.coverage.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def stream_of(seed: int, split: Split, number: int) -> np.random.Generator:
    """The random stream of one scene: it depends on the seed, the split and the scene's number alone."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAMS[split], number)))


def random_colours(count: int, channels: Literal[1, 3], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Colours [count, C]: saturated and bright hues, or greys of 160 to 255."""
    if channels == 1:
        return rng.integers(_GREY[0], _GREY[1] + 1, size=(count, 1)).astype(np.uint8)
    turns = 6 * rng.random((count, 1))
    # A hue's channels rise and fall linearly, a third of a turn apart.
    shares = np.clip(np.abs((turns + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return np.asarray(np.rint(255 * shares), np.uint8)


def empty_scenes(total: int, most: int, channels: int, height: int, width: int) -> Scenes:
    """Scenes with nothing in them, for `paint_scene` to fill.

    Args:
        total: M, scenes.
        most: K, objects that a scene may have; 16 at most.
        channels: C.
        height: H, pixels.
        width: W, pixels.
    """
    return Scenes(
        images=np.zeros((total, channels, height, width), np.uint8),
        masks=np.zeros((total, height, width), np.uint8),
        overlap=np.zeros((total, height, width), np.bool_),
        boxes=np.full((total, most, 4), np.nan, np.float32),
        labels=np.full((total, most), -1, np.int64),
        counts=np.zeros(total, np.int64),
        amodal=np.zeros((total, height, width), np.uint16),
    )


def hidden_shares(objects: list[FlatObject], height: int, width: int) -> NDArray[np.float64]:
    """Share of each object's pixels that later ones of the list hide, [n]."""
    topmost = np.zeros((height, width), np.uint8)
    for k, one in enumerate(objects, start=1):
        topmost[one.window][one.mask] = k
    shown = np.bincount(topmost.ravel(), minlength=len(objects) + 1)[1:]
    return np.asarray(1 - shown / np.array([max(1, one.mask.sum()) for one in objects]))


def paint_scene(
    scenes: Scenes, row: int, objects: list[FlatObject], colours: NDArray[np.uint8], background: NDArray[np.uint8]
) -> None:
    """Fills one scene; of two objects at a pixel the later one is seen.

    Args:
        scenes: from `empty_scenes`.
        row: which of them.
        objects: n objects, inside of the image.
        colours: of the objects, [n, C].
        background: [C, H, W].

    Raises:
        ValueError: the scenes lack arrays for what is known about objects.
    """
    masks, overlap, boxes = scenes.masks, scenes.overlap, scenes.boxes
    labels, counts, amodal = scenes.labels, scenes.counts, scenes.amodal
    if masks is None or overlap is None or boxes is None or labels is None or counts is None or amodal is None:
        raise ValueError("these scenes have no room for what is known about their objects")
    image = scenes.images[row]
    image[:] = background
    for k, (one, colour) in enumerate(zip(objects, colours, strict=True)):
        here, mask = one.window, one.mask
        coverage = one.coverage.astype(np.uint16)
        patch = image[:, here[0], here[1]]
        patch[:] = (coverage * colour[:, None, None] + (255 - coverage) * patch) // 255
        masks[row][here][mask] = k + 1
        amodal[row][here] |= np.where(mask, np.uint16(1 << k), np.uint16(0))
        inked_rows, inked_columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes[row, k] = (
            one.left + inked_columns[0],
            one.top + inked_rows[0],
            one.left + inked_columns[-1] + 1,
            one.top + inked_rows[-1] + 1,
        )
        labels[row, k] = one.label
    overlap[row] = np.bitwise_count(amodal[row]) > 1
    counts[row] = len(objects)
