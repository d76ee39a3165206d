"""Images as tensors of intensities, as the model takes them: converted from bytes, and varied by crops and flips."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["VIEW_DRAWS", "intensities", "random_views"]

VIEW_DRAWS = 4
"""Uniform numbers that `random_views` uses for each image."""


def intensities(images: NDArray[np.uint8] | Tensor, device: torch.device | str | None = None) -> Tensor:
    """Intensities in 0..1, float32, of images of any shape in 0..255.

    Args:
        images: uint8, an array or a tensor.
        device: where the result shall be; by default where a tensor is already, and the CPU for an array.
    """
    given = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    return given.to(device).float() / 255


def random_views(image: Tensor, crop: float, flip: bool, drawn: Tensor) -> Tensor:
    """Each image as a part of it, enlarged, and perhaps mirrored.

    Args:
        image: [B, C, H, W].
        crop: largest share of the sides that is cut off; the part keeps the image's aspect.
        flip: whether every second image is mirrored left to right, by chance.
        drawn: uniform numbers in [0, 1), [B, `VIEW_DRAWS`].

    Returns:
        [B, C, H, W]; the given images where neither is asked for.
    """
    if crop == 0 and not flip:
        return image
    draws = drawn.T
    side = 1 - crop * draws[0]
    # A part of side s may be centred up to 1 - s from the middle, in an image from -1 to 1.
    x, y = ((2 * draws[at] - 1) * (1 - side) for at in (1, 2))
    mirrored = torch.where((draws[3] < 0.5) & flip, -side, side)
    zero = torch.zeros_like(side)
    rows = torch.stack([torch.stack([mirrored, zero, x], dim=1), torch.stack([zero, side, y], dim=1)], dim=1)
    places = F.affine_grid(rows, list(image.shape), align_corners=False)
    return F.grid_sample(image, places, padding_mode="border", align_corners=False)
