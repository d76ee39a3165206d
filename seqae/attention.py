"""Soft attention by grids of Gaussian kernels: Eq. 7-12 of the paper.

Shapes: B images, C channels, H x W pixels, N kernels along a side. Coordinates are pixels, 0-indexed, so the centre of
an image is ((W-1)/2, (H-1)/2). No finite input gives NaN or Inf here, forward or backward: every parameter is clamped
to the bounds below, and a softmax over pixels normalises the kernels, so that Z of Eq. 9 and 10 can't be 0.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Filters", "Window", "make_filters", "read", "window_box", "write"]

_LENGTH = (1e-2, 1e3)  # pixels: what delta and sigma are clamped to
_GAMMA = (1e-2, 1e2)
_INTENSITY = 1e4  # what images are clamped to; they live in 0..1
_PATCH = _INTENSITY * _GAMMA[1]  # what patches are clamped to: all that a read can return
# What is smaller than this, of a kernel as a share of its peak and of patches and writes in intensities, is 0: products
# of the kernels' tails would be denormal numbers, which many processors multiply fifteen times slower.
_NEGLIGIBLE = 1e-12


class Window(NamedTuple):
    """Where and how the model attends: omega_t of Eq. 2. Each field has shape [B]; lengths are in pixels."""

    x: Tensor
    """Column of the grid's centre, g_X."""
    y: Tensor
    """Row of the grid's centre, g_Y."""
    delta: Tensor
    """Stride between two kernels."""
    sigma: Tensor
    """Standard deviation of a kernel."""
    gamma: Tensor
    """Intensity: reads are multiplied by it, writes divided."""


class Filters(NamedTuple):
    """The kernels of one window: f_t of Eq. 3."""

    x: Tensor  # [B, N, W], each row sums to 1
    y: Tensor  # [B, N, H], each row sums to 1
    gamma: Tensor  # [B, 1, 1, 1]
    delta: Tensor  # [B, 1, 1, 1]


def _axis(centre: Tensor, delta: Tensor, sigma: Tensor, kernels: int, pixels: int) -> Tensor:
    """The kernels along one axis, [B, kernels, pixels]: Eq. 7 and 9 for x, Eq. 8 and 10 for y."""
    i = torch.arange(1, kernels + 1, device=centre.device, dtype=centre.dtype)
    a = torch.arange(pixels, device=centre.device, dtype=centre.dtype)
    mu = centre[:, None] + (i - kernels / 2 - 0.5) * delta[:, None]  # [B, N], Eq. 7/8
    distance = (a - mu[:, :, None]) / sigma[:, None, None]
    exponent = -0.5 * distance.square()
    nearest = (mu.clamp(0, pixels - 1).round() - mu) / sigma[:, None]  # [B, N], of the pixel at the peak
    lowest = (-0.5 * nearest.square() + math.log(_NEGLIGIBLE)).detach()
    return torch.softmax(exponent.masked_fill(exponent < lowest[:, :, None], -torch.inf), dim=-1)  # Eq. 9/10


def make_filters(window: Window, kernels: int, height: int, width: int) -> Filters:
    """The N x N Gaussian kernels of a window (Eq. 7-10).

    Args:
        window: attention parameters, each [B].
        kernels: N.
        height: H, pixels.
        width: W, pixels.
    """
    x = window.x.clamp(0, width - 1)
    y = window.y.clamp(0, height - 1)
    delta = window.delta.clamp(*_LENGTH)
    sigma = window.sigma.clamp(*_LENGTH)
    return Filters(
        x=_axis(x, delta, sigma, kernels, width),
        y=_axis(y, delta, sigma, kernels, height),
        gamma=window.gamma.clamp(*_GAMMA)[:, None, None, None],
        delta=delta[:, None, None, None],
    )


def _cut_negligible(values: Tensor) -> Tensor:
    """The values with 0 in place of negligible ones, which keep their gradient: a model starts with writes of 0."""
    kept = values.detach()
    return values + (F.hardshrink(kept, _NEGLIGIBLE) - kept)


def read(image: Tensor, filters: Filters, *, with_gamma: bool = True) -> Tensor:
    """The patch under a window (Eq. 11): gamma * Fy @ image @ Fx^T, the same kernels for every channel.

    Args:
        image: [B, C, H, W].
        filters: of the window, from `make_filters`.
        with_gamma: False leaves the factor gamma out, for losses that must not be lowered by a small gamma.

    Returns:
        [B, C, N, N].
    """
    image = image.clamp(-_INTENSITY, _INTENSITY)
    with torch.autocast(image.device.type, enabled=False):  # the sum of many writes needs more than 8 bits
        patch = _cut_negligible(filters.y[:, None] @ (image @ filters.x[:, None].mT))
    return filters.gamma * patch if with_gamma else patch


def write(patch: Tensor, filters: Filters, gain: Literal["paper", "unit"] = "paper") -> Tensor:
    """What a patch adds to the canvas (Eq. 12, summed over the grid): 1/gamma * Fy^T @ patch @ Fx.

    Args:
        patch: [B, C, N, N].
        filters: of the window the patch was read with.
        gain: "paper" as printed, which makes write(read(x)) = x / delta^2 inside the window; "unit" multiplies by
            delta^2, which makes it x.

    Returns:
        [B, C, H, W].
    """
    patch = patch.clamp(-_PATCH, _PATCH)
    scale = 1 / filters.gamma if gain == "paper" else filters.delta.square() / filters.gamma
    with torch.autocast(patch.device.type, enabled=False):
        return _cut_negligible(filters.y[:, None].mT @ ((scale * patch) @ filters.x[:, None]))


def window_box(window: Window, kernels: int) -> Tensor:
    """The area that the kernels tile, [B, 4]: left, top, right, bottom in pixels; it may reach over the edge."""
    half = window.delta * (kernels / 2)
    return torch.stack((window.x - half, window.y - half, window.x + half, window.y + half), dim=1)
