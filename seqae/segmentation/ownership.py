"""Ownership of pixels: which write each pixel of an image belongs to, from the records of the reconstruction.

A pixel of the foreground belongs to the strongest of the active writes there; where none shows, at the tip of a stroke,
to the one whose window is centred nearest. The foreground is where the image differs from the canvas at the start. That
is an empty one without a background network, and what was written does not matter, so the halo of a write is no ink. A
background network's canvas differs from many images nearly everywhere, so there the writes must have changed it too.

Shape letters: T writes, B images, C channels, H height, W width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from seqae.attention import Window
from seqae.model import Output

__all__ = [
    "ACTIVE_SHARE",
    "FOREGROUND_LEVEL",
    "WRITTEN_LEVEL",
    "Ownership",
    "active_writes",
    "energy_shares",
    "own_pixels",
]

FOREGROUND_LEVEL = 31.5 / 255
"""A foreground pixel's image differs from the start by more than this, of 1, in its largest channel: by 32 of 255."""

WRITTEN_LEVEL = 15.5 / 255
"""With a background network, writes must have changed the canvas by more than this, of 1, in its largest channel."""

ACTIVE_SHARE = 0.02
"""A write owns pixels if it has more than this share of the energy of all writes of its image."""

_VISIBLE = 0.5 / 255  # strength that shows in an image of bytes: below, which write is stronger is chance

_LEAST_ENERGY = 1.0  # of one white pixel: what an image needs, for shares of its energy to mean anything


class Ownership(NamedTuple):
    """What decides whose pixel a pixel is."""

    strengths: Tensor
    """[T, B, H, W]: absolute value of each write, summed over channels."""

    distances: Tensor
    """[T, B, H, W]: pixels to the centre of each write's window."""

    active: Tensor
    """bool [T, B]: writes that may own pixels."""

    foreground: Tensor
    """bool [B, H, W]: pixels that belong to a write."""

    @property
    def owners(self) -> Tensor:
        """The number of the write that each pixel belongs to, from 1 to T, 0 for background: uint8 [B, H, W]."""
        preference = torch.where(self.strengths > _VISIBLE, self.strengths, -self.distances)
        # `max` where `argmax` would do: along the first dimension it takes a tenth of the time on a CPU.
        strongest = preference.masked_fill(~self.active[:, :, None, None], -torch.inf).max(dim=0).indices + 1
        owned = self.foreground & self.active.any(dim=0)[:, None, None]
        return torch.where(owned, strongest, 0).to(torch.uint8)

    @property
    def supports(self) -> Tensor:
        """Foreground that each active write shows on, whoever owns it, below another object too: bool [T, B, H, W]."""
        shown = (self.strengths > FOREGROUND_LEVEL) & self.active[:, :, None, None]
        return shown & self.foreground


def own_pixels(image: Tensor, output: Output, *, has_background: bool, active_share: float = ACTIVE_SHARE) -> Ownership:
    """Ownership by the writes of a reconstruction.

    Args:
        image: [B, C, H, W] in 0..1.
        output: of the model for that image, of one step or more.
        has_background: whether a background network painted the canvas at the start.
        active_share: least share of the energy of an active write, 0..1.
    """
    foreground = (image - output.start).abs().amax(dim=1) > FOREGROUND_LEVEL
    if has_background:
        foreground &= (output.canvas - output.start).abs().amax(dim=1) > WRITTEN_LEVEL
    strengths = output.writes.abs().sum(dim=2)
    return Ownership(
        strengths=strengths,
        distances=_distances(output.windows, *image.shape[2:]),
        active=active_writes(strengths, active_share),
        foreground=foreground,
    )


def _distances(windows: Window, height: int, width: int) -> Tensor:
    """Pixels from each pixel [H, W] to the centre of each window [T, B]: [T, B, H, W]."""
    x, y = (centre[:, :, None, None] for centre in (windows.x, windows.y))
    rows, columns = (torch.arange(pixels, device=x.device) for pixels in (height, width))
    return torch.hypot(columns - x, rows[:, None] - y)


def active_writes(strengths: Tensor, active_share: float = ACTIVE_SHARE) -> Tensor:
    """Writes that may own pixels, for their share of their image's energy: bool [T, B].

    Args:
        strengths: [T, B, H, W].
        active_share: least share, 0..1.
    """
    return energy_shares(strengths) > active_share


def energy_shares(strengths: Tensor) -> Tensor:
    """Each write's share [T, B] of its image's energy. Noise on an image that is all dark gets next to nothing.

    Args:
        strengths: [T, B, H, W].
    """
    energy = strengths.square().sum(dim=(2, 3))
    return energy / energy.sum(dim=0).clamp(min=_LEAST_ENERGY)
