"""Sprites: coloured squares, ellipses and hearts that hide parts of each other, painted from a seed.

After the published description of Multi-dSprites (Kabra et al., Multi-Object Datasets, 2019); no file of it is used.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seqae.config import SpritesConfig
from seqae.data.generated.backgrounds import make_background
from seqae.data.generated.masks import (
    FlatObject,
    empty_scenes,
    hidden_shares,
    paint_scene,
    random_colours,
    stream_of,
)
from seqae.data.scenes import Scenes
from seqae.data.splits import Split
from seqae.errors import DataError

__all__ = ["SHAPES", "make_sprites"]

SHAPES = ("square", "ellipse", "heart")
"""Names of the labels 0, 1 and 2."""

_REDRAWS = 200  # sets of sprites tried before the scene gets one sprite less
_SAMPLES = 3  # per pixel and axis, for smooth edges


def make_sprites(
    config: SpritesConfig, height: int, width: int, channels: Literal[1, 3], split: Split, numbers: range
) -> Scenes:
    """Sprite scenes of one split.

    The number of sprites is drawn evenly, then shapes, sizes, rotations and places; a later sprite lies over an earlier
    one. Sets of which one hides too much of another are drawn anew, 200 times, then with one sprite less.

    Args:
        config: the settings.
        height: H in pixels.
        width: W in pixels.
        channels: C, 1 or 3.
        split: names the random streams.
        numbers: which scenes to make.

    Raises:
        DataError: `min_objects` sprites do not fit into the image.
    """
    if config.max_size > min(height, width):
        raise DataError(f"a sprite of {config.max_size} pixels does not fit into an image of {height} x {width} pixels")
    scenes = empty_scenes(len(numbers), config.max_objects, channels, height, width)
    for row, number in enumerate(numbers):
        rng = stream_of(config.seed, split, number)
        objects = _compose(config, height, width, rng)
        # Drawn last, so that grey and coloured scenes of one seed have the same layout.
        colours = random_colours(len(objects), channels, rng)
        paint_scene(scenes, row, objects, colours, make_background(config.background, channels, height, width, rng))
    return scenes


def _compose(config: SpritesConfig, height: int, width: int, rng: np.random.Generator) -> list[FlatObject]:
    """Sprites of one scene, from the lowest to the topmost."""
    wanted = int(rng.integers(config.min_objects, config.max_objects + 1))
    for count in range(wanted, config.min_objects - 1, -1):
        for _ in range(_REDRAWS):
            objects = [_draw(config, height, width, rng) for _ in range(count)]
            if (hidden_shares(objects, height, width) <= config.max_hidden).all():
                return objects
    raise DataError(
        f"{config.min_objects} sprites of {config.min_size} to {config.max_size} pixels do not fit into an image of "
        f"{height} x {width} pixels with at most {config.max_hidden} of each hidden"
    )


def _draw(config: SpritesConfig, height: int, width: int, rng: np.random.Generator) -> FlatObject:
    label = int(rng.integers(len(SHAPES)))
    coverage = _rasterize(label, int(rng.integers(config.min_size, config.max_size + 1)), rng.uniform(0, 2 * np.pi))
    top, left = (
        int(rng.integers(whole - part + 1)) for whole, part in zip((height, width), coverage.shape, strict=True)
    )
    return FlatObject(coverage, top, left, label)


def _rasterize(label: int, size: int, angle: float) -> NDArray[np.uint8]:
    """Coverage [size, size] of 255 of a rotated shape that touches no edge of its square, whatever the angle."""
    at = (np.arange(size * _SAMPLES) + 0.5) / (size * _SAMPLES) * 2 - 1  # -1 to 1
    x, y = np.meshgrid(at, at)
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    match SHAPES[label]:
        case "square":
            inside = np.maximum(np.abs(u), np.abs(v)) <= np.sqrt(0.5)
        case "ellipse":
            inside = u**2 + (v / 0.6) ** 2 <= 1
        case _:  # the heart curve, within a circle of radius 1.42 around its middle
            a, b = 1.42 * u, 1.42 * v + 0.1
            inside = (a**2 + b**2 - 1) ** 3 - a**2 * b**3 <= 0
    shares = inside.reshape(size, _SAMPLES, size, _SAMPLES).mean(axis=(1, 3))
    return np.asarray(np.rint(255 * shares), np.uint8)
