"""Looking again: each active write encoded once more off the image, in its own window, to see whose pixels are whose.

A step reads the error image, which later writes change and earlier ones have left their traces in. A look reads the
image itself: first as it is, then weighed by w^2 / sum of w^2 over the writes w of the look before, so that a window
hardly sees what belongs to its neighbour. Windows stay where they are, and nothing is trained for it.
"""

import torch
from torch import Tensor

from seqae.attention import Filters, read, write
from seqae.model import Output, SequentialAutoEncoder
from seqae.segmentation.ownership import Ownership

__all__ = ["LOOKS", "look_again"]

LOOKS = 2
"""Looks that are taken by default. One look calls the coder once for each active write."""


def look_again(
    model: SequentialAutoEncoder, image: Tensor, output: Output, first: Ownership, looks: int = LOOKS
) -> Ownership:
    """Ownership by what the windows show of the image, in place of what was written.

    Writes that are not active take no part, and stay so; the foreground is that of `first`. All images and writes of
    a look go through the coder together.

    Args:
        model: in evaluation mode; what made `output`.
        image: [B, C, H, W] in 0..1.
        output: of the model for that image.
        first: ownership by the writes of `output`.
        looks: how many; 0 gives `first`.
    """
    if looks == 0 or not bool(first.active.any()):
        return first
    of_image = first.active.nonzero()[:, 1]  # [n], of each active write, in the order of `active`
    filters = Filters(*(torch.stack(each)[first.active] for each in zip(*_filters(output), strict=True)))
    shown = (image - output.start)[of_image]  # [n, C, H, W]: what the first step's error would be
    seen, strengths = shown, first.strengths
    for look in range(looks):
        if look:
            seen = shown * _weights(strengths)[first.active].unsqueeze(1)
        code = model.coder.encode(read(seen, filters))
        written = write(model.coder.decode(code.z).float(), filters, model.config.attention.write_gain)
        strengths = torch.zeros_like(first.strengths)
        strengths[first.active] = written.abs().sum(dim=1)
    return first._replace(strengths=strengths)


def _filters(output: Output) -> list[Filters]:
    return [step.filters for step in output.steps]


def _weights(strengths: Tensor) -> Tensor:
    """w^2 / sum of w^2 over the writes [T, B, H, W]; 0 where there is none."""
    squares = strengths.square()
    return squares / squares.sum(dim=0).clamp(min=torch.finfo(squares.dtype).tiny)
