"""MNIST-Scenes: handwritten digits placed on a black or textured image, with all that is known about where they are.

A scene depends on the digits, the seed, the settings, the split and its own number, and on nothing else: each has its
own random stream, so a part of the scenes made alone is byte for byte the same part of all of them.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seqae.config import MnistScenesConfig, SpritesConfig, TetrominoesConfig
from seqae.data.digits import SIDE, Digits, cut_digit
from seqae.data.generated.backgrounds import lay_over, make_background
from seqae.data.generated.masks import stream_of
from seqae.data.scenes import Scenes
from seqae.data.splits import Split
from seqae.errors import DataError

__all__ = ["VISIBLE", "make_scenes", "scene_count"]

VISIBLE = 32
"""A pixel belongs to a digit where the digit alone is at least so bright, of 255."""

_SCATTERS = 8  # tries to place one set of digits at random before packing them
_SHUFFLES = 3  # times every packed digit is moved to a random free place
_REDRAWS = 50  # sets of digits tried before the scene gets one digit less


@dataclass(frozen=True)
class _Digit:
    """One digit, cut to its tight box: `ink` uint8 [h, w]."""

    ink: NDArray[np.uint8]
    label: int


def scene_count(config: MnistScenesConfig | SpritesConfig | TetrominoesConfig, split: Split) -> int:
    """How many scenes a split has."""
    return {"train": config.train_scenes, "val": config.val_scenes, "test": config.test_scenes}[split]


def make_scenes(
    config: MnistScenesConfig,
    height: int,
    width: int,
    channels: Literal[1, 3],
    digits: Digits,
    split: Split,
    numbers: range | None = None,
) -> Scenes:
    """Scenes of one split.

    The number of digits is drawn evenly from `min_digits..max_digits`, then the digits, their sizes and their places.
    Digits that find no room are drawn anew, which favours small ones in crowded scenes; a number that finds no room in
    50 draws goes down by one. Digits add by maximum. With three channels each digit has a random saturated hue.

    Args:
        config: the settings.
        height: H in pixels.
        width: W in pixels.
        channels: C, 1 or 3.
        digits: the digits to use, of this split.
        split: names the random streams.
        numbers: which scenes to make; all of the split by default.

    Raises:
        DataError: `min_digits` digits do not fit into the image.
    """
    if numbers is None:
        numbers = range(scene_count(config, split))
    if round(SIDE * config.max_scale) > min(height, width):
        raise DataError(f"a digit of scale {config.max_scale} does not fit into an image of {height} x {width} pixels")
    digits = _shown(digits, config.train_labels if split == "train" else config.test_labels)
    total, most = len(numbers), config.max_digits
    scenes = Scenes(
        images=np.zeros((total, channels, height, width), np.uint8),
        masks=(masks := np.zeros((total, height, width), np.uint8)),
        overlap=(overlap := np.zeros((total, height, width), np.bool_)),
        boxes=(boxes := np.full((total, most, 4), np.nan, np.float32)),
        labels=(labels := np.full((total, most), -1, np.int64)),
        counts=(counts := np.zeros(total, np.int64)),
        amodal=(amodal := np.zeros((total, height, width), np.uint16)),
    )
    for row, number in enumerate(numbers):
        rng = stream_of(config.seed, split, number)
        chosen, places = _compose(config, digits, height, width, rng)
        # Drawn last, so that grey and coloured scenes of one seed have the same layout.
        tints = _hues(rng.random(len(chosen))) if channels == 3 else np.full((len(chosen), 1), 255, np.uint16)
        opacity = _paint(scenes.images[row], masks[row], amodal[row], chosen, places, tints)
        if config.background != "black":
            lay_over(scenes.images[row], opacity, make_background(config.background, channels, height, width, rng))
        overlap[row] = np.bitwise_count(amodal[row]) > 1
        counts[row] = len(chosen)
        for k, (digit, (top, left)) in enumerate(zip(chosen, places, strict=True)):
            boxes[row, k] = left, top, left + digit.ink.shape[1], top + digit.ink.shape[0]
            labels[row, k] = digit.label
    return scenes


def _shown(digits: Digits, labels: tuple[int, ...]) -> Digits:
    """Those of the digits that are among `labels`."""
    if len(labels) == 10:
        return digits
    kept = np.isin(digits.labels, labels)
    if not kept.any():
        raise DataError(f"there are no digits {', '.join(map(str, labels))} to make scenes of")
    return replace(digits, images=digits.images[kept], labels=digits.labels[kept])


def _compose(
    config: MnistScenesConfig, digits: Digits, height: int, width: int, rng: np.random.Generator
) -> tuple[list[_Digit], NDArray[np.int64]]:
    """Digits of one scene and their top left corners [n, 2] as (top, left)."""
    wanted = int(rng.integers(config.min_digits, config.max_digits + 1))
    for count in range(wanted, config.min_digits - 1, -1):
        for _ in range(_REDRAWS):
            chosen = _draw(config, digits, count, rng)
            sizes = np.array([digit.ink.shape for digit in chosen], np.int64).reshape(count, 2)
            places = _place(sizes, (height, width), config.max_overlap, rng)
            if places is not None:
                return chosen, places
    raise DataError(
        f"{config.min_digits} digits of scale {config.min_scale} to {config.max_scale} do not fit into an image of "
        f"{height} x {width} pixels with an overlap of at most {config.max_overlap}"
    )


def _draw(config: MnistScenesConfig, digits: Digits, count: int, rng: np.random.Generator) -> list[_Digit]:
    low, high = round(SIDE * config.min_scale), round(SIDE * config.max_scale)
    which = rng.integers(len(digits.images), size=count)
    sides = rng.integers(low, high + 1, size=count)
    return [
        _Digit(cut_digit(digits.images[i], int(side)), int(digits.labels[i]))
        for i, side in zip(which, sides, strict=True)
    ]


def _place(
    sizes: NDArray[np.int64], shape: tuple[int, int], max_overlap: float, rng: np.random.Generator
) -> NDArray[np.int64] | None:
    """Corners [n, 2] for boxes of `sizes` [n, 2], at random if a few tries suffice, else packed; None: no room."""
    if max_overlap == 0 and sizes.prod(axis=1).sum() > shape[0] * shape[1]:
        return None
    for _ in range(_SCATTERS):
        places = _scatter(sizes, shape, max_overlap, rng)
        if places is not None:
            return places
    return _pack(sizes, shape, max_overlap, rng)


def _scatter(
    sizes: NDArray[np.int64], shape: tuple[int, int], max_overlap: float, rng: np.random.Generator
) -> NDArray[np.int64] | None:
    """Boxes one after the other, each at a place drawn evenly from all that are free."""
    places = np.zeros_like(sizes)
    for k, size in enumerate(sizes):
        free = np.flatnonzero(_free(size, shape, places[:k], sizes[:k], max_overlap))
        if not len(free):
            return None
        places[k] = divmod(int(free[rng.integers(len(free))]), shape[1] - int(size[1]) + 1)
    return places


def _pack(
    sizes: NDArray[np.int64], shape: tuple[int, int], max_overlap: float, rng: np.random.Generator
) -> NDArray[np.int64] | None:
    """Boxes from the highest on, each in the first free place of the rows; then each moved about, as far as it can."""
    places = np.zeros_like(sizes)
    order = np.argsort(-sizes[:, 0], kind="stable")
    for k, box in enumerate(order):
        free = _free(sizes[box], shape, places[order[:k]], sizes[order[:k]], max_overlap)
        if not free.any():
            return None
        places[box] = divmod(int(free.argmax()), free.shape[1])
    for box in np.tile(order, _SHUFFLES):
        others = order[order != box]
        corners = np.flatnonzero(_free(sizes[box], shape, places[others], sizes[others], max_overlap))
        places[box] = divmod(int(corners[rng.integers(len(corners))]), shape[1] - int(sizes[box, 1]) + 1)
    return places


def _free(
    size: NDArray[np.int64],
    shape: tuple[int, int],
    places: NDArray[np.int64],
    sizes: NDArray[np.int64],
    max_overlap: float,
) -> NDArray[np.bool_]:
    """Corners of a box of `size` inside the image at which it shares little enough with each other box.

    The share counts for both boxes: it is taken of the smaller one. Returns bool [H - h + 1, W - w + 1].
    """
    height, width = (int(whole - part) + 1 for whole, part in zip(shape, size, strict=True))
    tops, lefts = np.arange(height)[:, None], np.arange(width)[:, None]
    # Rows and columns that a box at each corner shares with each of the k others: [H - h + 1, k] and [W - w + 1, k].
    rows = np.minimum(tops + size[0], places[:, 0] + sizes[:, 0]) - np.maximum(tops, places[:, 0])
    columns = np.minimum(lefts + size[1], places[:, 1] + sizes[:, 1]) - np.maximum(lefts, places[:, 1])
    if max_overlap == 0:
        hit = (rows > 0).astype(np.float32) @ (columns > 0).astype(np.float32).T
        return np.asarray(hit == 0)
    allowed = max_overlap * np.minimum(size.prod(), sizes.prod(axis=1))
    free = np.ones((height, width), np.bool_)
    for k in range(len(sizes)):
        free &= np.outer(rows[:, k].clip(0), columns[:, k].clip(0)) <= allowed[k]
    return free


def _hues(turns: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Saturated, bright colours [n, 3] in 0..255 of hues `turns` [n] in 0..1 (HSV with S = V = 1)."""
    from matplotlib.colors import hsv_to_rgb  # here: most scenes are grey, and matplotlib is slow to import

    full = np.ones_like(turns)
    return np.asarray(np.rint(255 * hsv_to_rgb(np.stack((turns, full, full), axis=-1))), np.uint16)


def _paint(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    amodal: NDArray[np.uint16],
    chosen: list[_Digit],
    places: NDArray[np.int64],
    tints: NDArray[np.uint16],
) -> NDArray[np.uint8]:
    """Paints the digits into `image` [C, H, W], `mask` [H, W] and `amodal` [H, W], as `Scenes` has them.

    A pixel under several digits belongs to the one that is brightest there. Returns the brightest ink, [H, W].
    """
    brightest = np.zeros(mask.shape, np.uint8)
    for k, (digit, (top, left), tint) in enumerate(zip(chosen, places, tints, strict=True), start=1):
        ink = digit.ink
        here = np.s_[top : top + ink.shape[0], left : left + ink.shape[1]]
        seen = ink >= VISIBLE
        np.copyto(mask[here], k, where=seen & (ink > brightest[here]))
        np.maximum(brightest[here], ink, out=brightest[here])
        amodal[here] |= np.where(seen, np.uint16(1 << (k - 1)), np.uint16(0))
        colour = (ink * tint[:, None, None] // 255).astype(np.uint8)  # [C, h, w]
        patch = image[:, here[0], here[1]]
        np.maximum(patch, colour, out=patch)
    return brightest
