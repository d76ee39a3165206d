"""Conversion of images from bytes to tensors of intensities, as the model takes them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["intensities"]


def intensities(images: NDArray[np.uint8] | Tensor, device: torch.device | str | None = None) -> Tensor:
    """Intensities in 0..1, float32, of images of any shape in 0..255.

    Args:
        images: uint8, an array or a tensor.
        device: where the result shall be; by default where a tensor is already, and the CPU for an array.
    """
    given = images if isinstance(images, Tensor) else torch.from_numpy(np.ascontiguousarray(images))
    return given.to(device).float() / 255
