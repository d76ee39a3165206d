"""Connected support of an error image: the pixels that hang together with a place, and the square around them.

An object that touches no other is one connected component of the error, whatever its size. All of it is done for a
whole batch at once, in a fixed number of tensor operations, on any device.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Square", "bounding_square", "connected_support", "square_isolation"]

_SHARE = 0.25  # of the image's largest error: pixels below it belong to no support
_DILATIONS = 64  # pixels: how far from its first one a support may reach, along its strokes


class Square(NamedTuple):
    """A square in each image, each field [B], in pixels."""

    x: Tensor
    """Column of its centre."""
    y: Tensor
    """Row of its centre."""
    side: Tensor
    """Length of a side; 0 where there is nothing to enclose."""


def connected_support(strength: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Pixels whose error hangs together with the nearest strong error to a place: a flood fill, [B, H, W] of bool.

    Strong pixels are those with a quarter of the image's largest error. They are filled from the one nearest to the
    place into their eight neighbours, at most 64 times. An image of zeros has none.

    Args:
        strength: size of the error, [B, H, W], not negative.
        x: column of the place, pixels, [B].
        y: its row, likewise.
    """
    _, height, width = strength.shape
    least = (_SHARE * strength.amax(dim=(1, 2), keepdim=True)).clamp(min=torch.finfo(strength.dtype).tiny)
    is_strong = strength >= least
    rows, columns = (torch.arange(pixels, device=strength.device, dtype=torch.float32) for pixels in (height, width))
    distance = (rows[:, None] - y[:, None, None]).square() + (columns - x[:, None, None]).square()
    nearest = distance.masked_fill(~is_strong, torch.inf).flatten(1).argmin(dim=1, keepdim=True)
    seed = torch.zeros_like(is_strong).flatten(1).scatter(1, nearest, True).view_as(is_strong)
    return _flood(seed & is_strong, is_strong)


def _flood(seed: Tensor, allowed: Tensor) -> Tensor:
    """The seeds, grown 64 times into their eight neighbours where that is allowed; all [B, H, W] of bool.

    Rows are laid end to end with a gap after each, and shifted: that takes a small part of the time of max-pooling.
    """
    stride = allowed.shape[2] + 1
    mask, filled = (F.pad(given, (0, 1)).flatten(1) for given in (allowed, seed))
    around = F.pad(filled, (stride + 1, stride + 1))
    pixels = mask.shape[1]
    for _ in range(_DILATIONS):
        wide = around[:, :-2] | around[:, 2:]
        wide |= around[:, 1:-1]
        filled = wide[:, :pixels] | wide[:, 2 * stride :]
        filled |= wide[:, stride : stride + pixels]
        filled &= mask
        around[:, stride + 1 : -stride - 1] = filled
    return filled.view(len(allowed), -1, stride)[:, :, :-1]


def bounding_square(support: Tensor) -> Square:
    """The smallest square around each support, [B, H, W] of bool, that shares the centre of its bounding box."""
    middle_x, width = _extent(support.any(dim=1))
    middle_y, height = _extent(support.any(dim=2))
    return Square(middle_x, middle_y, torch.maximum(width, height))


def _extent(taken: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and length, each [B], of what is between the first and the last of `taken`, [B, P] of bool."""
    at = torch.arange(taken.shape[1], device=taken.device, dtype=torch.float32)
    first = at.expand(taken.shape).masked_fill(~taken, torch.inf).amin(dim=1)
    last = at.expand(taken.shape).masked_fill(~taken, -torch.inf).amax(dim=1)
    found = taken.any(dim=1)
    return torch.where(found, (first + last) / 2, 0.0), torch.where(found, last - first + 1, 0.0)


def square_isolation(
    strength: Tensor, square: Square, *, frame: float, surround_weight: float, size_exponent: float
) -> Tensor:
    """Centre-surround contrast of squares, [B]: the error inside, less what a frame around holds, by the side's size.

    Args:
        strength: size of the error, [B, H, W].
        square: one in each image; pixels at its edge count by the part that is inside.
        frame: width of the frame, pixels.
        surround_weight: weight of the error in the frame; that inside has 1.
        size_exponent: power of the side that the difference is divided by.
    """
    inside = _sum_inside(strength, square)
    around = _sum_inside(strength, square._replace(side=square.side + 2 * frame)) - inside
    return (inside - surround_weight * around) / square.side.clamp(min=1).pow(size_exponent)


def _sum_inside(strength: Tensor, square: Square) -> Tensor:
    _, height, width = strength.shape
    rows = _cover(square.y, square.side, height)
    columns = _cover(square.x, square.side, width)
    return (strength * rows[:, :, None] * columns[:, None, :]).sum(dim=(1, 2))


def _cover(centre: Tensor, side: Tensor, pixels: int) -> Tensor:
    """Share of each pixel along an axis, [B, pixels], that lies within half a side of the centre."""
    at = torch.arange(pixels, device=centre.device)
    return (side[:, None] / 2 + 0.5 - (at - centre[:, None]).abs()).clamp(0, 1)
