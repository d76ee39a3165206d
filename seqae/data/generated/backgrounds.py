"""Backgrounds of generated scenes: black, one colour, or a texture of waves."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["lay_over", "make_background"]

_WAVES = 4
_LENGTHS = (6.0, 32.0)  # pixels: of the shortest and the longest wave
_LEVELS = (16, 128)  # of 255: objects are brighter in at least one channel
_DARK = 64  # of 255: a uniform background is at most so bright in grey


def make_background(
    kind: Literal["black", "uniform", "texture"], channels: int, height: int, width: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A background, uint8 [C, H, W].

    Args:
        kind: "black" draws nothing from `rng`; "uniform" is one dark colour; "texture" is a sum of plane waves of
            random direction, length, phase and colour, stretched to the levels 16 to 128.
        channels: C.
        height: H, pixels.
        width: W, pixels.
        rng: source of what is random.
    """
    if kind == "black":
        return np.zeros((channels, height, width), np.uint8)
    if kind == "uniform":
        brightest = _LEVELS[1] if channels == 3 else _DARK
        flat = rng.integers(0, brightest + 1, size=channels).astype(np.uint8)
        return np.broadcast_to(flat[:, None, None], (channels, height, width)).copy()
    angle, phase = rng.uniform(0, 2 * np.pi, (2, _WAVES))
    length = np.exp(rng.uniform(np.log(_LENGTHS[0]), np.log(_LENGTHS[1]), _WAVES))
    colour = rng.uniform(-1, 1, (channels, _WAVES))
    rows, columns = np.arange(height)[:, None], np.arange(width)
    waves = [
        np.sin(2 * np.pi * (np.cos(a) * columns + np.sin(a) * rows) / n + p)
        for a, n, p in zip(angle, length, phase, strict=True)
    ]
    texture = np.tensordot(colour, np.stack(waves), axes=1)  # [C, H, W]
    low, high = texture.min(), texture.max()
    shares = (texture - low) / max(high - low, 1e-8)
    return np.asarray(np.rint(_LEVELS[0] + (_LEVELS[1] - _LEVELS[0]) * shares), np.uint8)


def lay_over(image: NDArray[np.uint8], opacity: NDArray[np.uint8], background: NDArray[np.uint8]) -> None:
    """Puts a background behind an image that was painted on black, in place.

    Args:
        image: [C, H, W], at most as bright as its opacity.
        opacity: [H, W], 255 where nothing of the background shows.
        background: [C, H, W].
    """
    image += (background.astype(np.uint16) * (255 - opacity.astype(np.uint16)) // 255).astype(np.uint8)
