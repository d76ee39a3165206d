"""Figure 4: what grids of few or many, narrow or wide kernels read of an image, and what comes back on the canvas."""

import numpy as np
import torch
from numpy.typing import NDArray

from seqae.attention import Filters, Window, make_filters, read, write
from seqae.figures.figure import Figure
from seqae.figures.layout import grid, heat
from seqae.rendering.panels import panel, to_bytes
from seqae.tensors import intensities

__all__ = ["SETTINGS", "density", "readers", "whole_window"]

SETTINGS = ((21, 0.1), (42, 0.1), (21, 0.01), (42, 0.01))
"""N and sigma of the paper's rows, from the top."""

_PANEL = 168  # pixels: a multiple of 21 and 42


def whole_window(height: int, width: int, kernels: int, sigma: float) -> Window:
    """A window over a whole image: the grid in the middle, its kernels spread evenly over the longer side.

    Args:
        height: of the image.
        width: likewise.
        kernels: N.
        sigma: as the paper gives it, a share of half the image's longer side: see `readers`.
    """
    half = max(height, width) / 2
    values = ((width - 1) / 2, (height - 1) / 2, 2 * half / kernels, sigma * half, 1.0)
    return Window(*(torch.tensor([value]) for value in values))


def density(filters: Filters) -> NDArray[np.float32]:
    """How much all kernels together weigh each pixel, [B, H, W]: the sum of Eq. 9 times Eq. 10 over the grid."""
    total: NDArray[np.float32] = (filters.y.sum(dim=1)[:, :, None] * filters.x.sum(dim=1)[:, None, :]).numpy()
    return total


def readers(image: NDArray[np.uint8]) -> Figure:
    """Rows as in the paper, each the original, the patch read, the patch rewritten, and the kernels' density.

    A sigma of 0.01 pixels would underflow everywhere, so 0.1 and 0.01 are read as lengths in coordinates that go from
    -1 to 1 over the image, as the centre's do in DRAW: shares of half its side, 3.2 and 0.32 pixels of 64. The stride
    makes the grid cover the image, and writing has unit gain (Eq. 12 as printed would be 1 / delta^2 as bright).

    Args:
        image: uint8 [C, H, W].

    Returns:
        The figure. Its numbers, by row: `contrast`, the standard deviation of the patch read as a share of the
        image's, which blur lowers; `mse` of the image rewritten; and `ripple`, the standard deviation of the density as
        a share of its mean, in the middle half of the image.
    """
    height, width = image.shape[1:]
    original = intensities(image)[None]
    rows, labels, numbers = [], [], {}
    for kernels, sigma in SETTINGS:
        window = whole_window(height, width, kernels, sigma)
        filters = make_filters(window, kernels, height, width)
        patch = read(original, filters)
        rewritten = write(patch, filters, "unit")
        weight = density(filters)[0]
        middle = weight[height // 4 : -(height // 4), width // 4 : -(width // 4)]
        key = f"n{kernels}_sigma{sigma:g}"
        numbers[f"contrast_{key}"] = float(patch.std() / original.std().clamp(min=1e-12))
        numbers[f"mse_{key}"] = float((original - rewritten).square().mean())
        numbers[f"ripple_{key}"] = float(middle.std() / middle.mean())
        shown = (to_bytes(one[0].numpy()) for one in (original, patch, rewritten))
        rows.append([panel(one, _PANEL) for one in (*shown, heat(weight))])
        labels.append(
            f"N = {kernels}\nsigma {sigma:g}\n= {float(window.sigma):.2f} px\ndelta {float(window.delta):.2f} px"
        )
    caption = (
        "Soft-attention readers (Figure 4). Sigma is a share of half the image's longer side; the grid covers the "
        "image; rewritten with unit gain."
    )
    return Figure(grid(rows, ("original", "read", "rewritten", "filter density"), labels=labels), caption, numbers)
