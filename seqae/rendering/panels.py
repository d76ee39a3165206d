"""Panels of figures and filmstrips: arrays as pictures, enlarged without smoothing, and the colours around them.

Numpy and PIL only, no torch.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

__all__ = [
    "BLUE",
    "GAP",
    "GREEN",
    "ORANGE",
    "PAPER",
    "PURPLE",
    "SKY_BLUE",
    "STEP_COLOURS",
    "TEXT",
    "VERMILION",
    "YELLOW",
    "owner_colours",
    "panel",
    "picture",
    "quantize",
    "to_bytes",
]

GAP = 4
"""Pixels between two panels."""

PAPER, TEXT = "#181a1f", "#dcdee4"
"""What panels lie on, and what is written beside them."""

# Okabe and Ito's colours, which most colour-blind eyes can tell apart.
SKY_BLUE, ORANGE, GREEN, YELLOW = "#56b4e9", "#e69f00", "#009e73", "#f0e442"
VERMILION, PURPLE, BLUE = "#d55e00", "#cc79a7", "#0072b2"

STEP_COLOURS = (SKY_BLUE, ORANGE, GREEN, YELLOW, VERMILION, PURPLE, BLUE)
"""Of each step, from the first on; later steps begin again."""

Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating]


def quantize(intensities: Floats) -> Bytes:
    """Intensities of any shape, clipped to 0..1 -> uint8 in 0..255, rounded."""
    return np.asarray(np.rint(intensities.clip(0, 1) * 255), np.uint8)


def to_bytes(images: Floats) -> Bytes:
    """Images [..., C, H, W] of intensities, clipped to 0..1 -> uint8 [..., H, W, C]."""
    return quantize(np.moveaxis(images, -3, -1))


def owner_colours(owners: Bytes) -> Bytes:
    """Owners of pixels [H, W] in the colours of their steps, from 1 on -> uint8 [H, W, 3]; the background is black."""
    steps = np.array([ImageColor.getrgb(colour) for colour in STEP_COLOURS], np.uint8)
    return np.where(owners[..., None] > 0, steps[(owners.astype(np.int64) - 1) % len(steps)], np.uint8(0))


def picture(image: Bytes) -> Image.Image:
    """An array as a picture of PIL, grey or RGB.

    Args:
        image: uint8 [H, W], [H, W, 1] or [H, W, 3].

    Raises:
        ValueError: it is of another type or shape.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"not an image: {image.dtype} {image.shape}; uint8 [H, W], [H, W, 1] or [H, W, 3] is")
    return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)


def panel(image: Bytes, height: int) -> Image.Image:
    """An array as an RGB picture of `height` pixels, in its own aspect, enlarged without smoothing.

    Args:
        image: as for `picture`.
        height: of the panel.

    Raises:
        ValueError: see `picture`.
    """
    made = picture(image).convert("RGB")
    return made.resize((round(height * made.width / made.height), height), Image.Resampling.NEAREST)
