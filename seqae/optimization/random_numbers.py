"""Counter-based random numbers of training: a function of (seed, iteration, place of the image in the global batch).

The generator is Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), which passes
BigCrush. Seed and iteration are its key; its counter starts, for each image, at a multiple of the image's place. So an
image has the same numbers whichever worker computes it, and however many there are. Devices' own generators differ
from each other, and those of torch are sequential: an image's numbers would depend on those before it.
"""

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["normals", "uniforms"]

_PER_COUNT = 8
"""Numbers of 32 bits that one value of Philox4x64's counter gives."""


def uniforms(seed: int, iteration: int, rows: range, count: int, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1) of consecutive images, float32 [len(rows), count]; multiples of 2^-24.

    Args:
        seed: of the run.
        iteration: from 0.
        rows: places of the images in the global batch.
        count: numbers for each image; a row's numbers depend on it.
        device: where they shall be; they are made on the CPU, and no GPU is waited for.
    """
    counts = math.ceil(count / _PER_COUNT)
    philox = np.random.Philox(key=np.array([seed, iteration], np.uint64), counter=rows.start * counts)
    numbers = np.random.Generator(philox).random((len(rows), counts * _PER_COUNT), np.float32)
    drawn = torch.from_numpy(numbers)
    if device.type == "cuda":
        drawn = drawn.pin_memory()
    return drawn.to(device, non_blocking=True)[:, :count]


def normals(uniform: Tensor) -> Tensor:
    """Normal numbers of mean 0 and variance 1 out of uniform ones, by Box and Muller's transform.

    Args:
        uniform: [..., 2 n], in [0, 1).

    Returns:
        [..., 2 n]; none is further than 5.8 from 0, since the uniform ones are multiples of 2^-24.
    """
    first, second = uniform.chunk(2, dim=-1)
    radius = (-2 * torch.log1p(-first)).sqrt()
    angle = 2 * torch.pi * second
    return torch.cat((radius * angle.cos(), radius * angle.sin()), dim=-1)
