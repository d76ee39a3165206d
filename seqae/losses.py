"""The training losses: Eq. 13-15. Each is a mean over pixels and a mean over the batch."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seqae.attention import read
from seqae.config import LossConfig
from seqae.copy_paste import CopyPasteLosses, presence
from seqae.model import Output

__all__ = ["Losses", "mseot_weights", "step_errors", "total_loss"]


class Losses(NamedTuple):
    """Scalars; `total` is what training minimises."""

    total: Tensor
    region: Tensor
    mseot: Tensor
    divergence: Tensor
    separation: Tensor
    location: Tensor
    presence: Tensor  # writes per image that do something
    mse: Tensor  # of the last canvas, Eq. 13


def step_errors(image: Tensor, output: Output) -> Tensor:
    """Eq. 13 for every canvas: the mean squared error of c_0..c_T, [T+1, B]; units of intensity squared."""
    return (image - output.canvases).square().mean(dim=(2, 3, 4))


def mseot_weights(
    steps: int,
    device: torch.device | None = None,
    *,
    base: Literal["t-1", "t"] = "t-1",
    normalized: bool = True,
) -> Tensor:
    """The weights of MSEOT (Eq. 14): [T], the squares of t - 1 for t = 1..T, divided by their sum.

    Args:
        steps: T; one step alone has weight 1, since Eq. 14 would give it none.
        device: of the result.
        base: "t" for the squares of t.
        normalized: False leaves out the division.
    """
    if steps == 1:
        return torch.ones(1, device=device)
    weights = (torch.arange(steps, device=device, dtype=torch.float32) + (base == "t")).square()
    return weights / weights.sum() if normalized else weights


def _region_loss(image: Tensor, output: Output, target: Literal["error", "image"], *, moves_window: bool) -> Tensor:
    """L_region: what each step wrote against the image, or what was missing of it, read with the same kernels (2.5).

    gamma is left out of the reading and divided out of the patch: with gamma inside both, gamma -> 0 would minimise it.
    What was read is fixed: a window must not earn anything by looking where there is little to write. With
    `moves_window` the reading of the image is not, as the paper has it.
    """
    losses = []
    for step in output.steps:
        gamma = step.filters.gamma
        if target == "image":
            wanted = read(image, step.filters, with_gamma=False)
        else:
            wanted = (step.patch_read / gamma).detach()
        if not moves_window:
            wanted = wanted.detach()
        losses.append(F.mse_loss(step.patch_written / gamma, wanted))
    return torch.stack(losses).mean()


def total_loss(image: Tensor, output: Output, config: LossConfig, pasted: CopyPasteLosses | None = None) -> Losses:
    """Eq. 15: alpha_region * L_region + alpha_mseot * L_MSEOT, plus the terms that the paper does not have.

    Args:
        image: [B, C, H, W] in 0..1.
        output: of the model for that image.
        config: the weights.
        pasted: of the same model, where their weights are not 0.
    """
    of_images = step_errors(image, output)  # [T+1, B]
    errors = of_images.mean(dim=1)
    by_step = mseot_weights(
        len(output.steps), image.device, base=config.mseot_weights, normalized=config.mseot_normalized
    )
    mseot = errors[1:] @ by_step  # Eq. 14, c_t after t writes
    region = _region_loss(image, output, config.region_target, moves_window=config.region_moves_window)
    # The price makes small writes, which patch up others' strokes, give way to better first ones; large ones feel none.
    # An image that is not rebuilt yet pays none: writing nothing at all would be a way out.
    present = presence(output.writes, output.windows.delta)  # [T, B]
    writes = present.sum(dim=0)
    rebuilt = (1 - of_images[-1] / of_images[0].clamp(min=1e-8)).clamp(min=0).detach()
    price = (rebuilt * writes).mean()
    total = config.alpha_region * region + config.alpha_mseot * mseot + config.alpha_presence * price
    nothing = torch.zeros((), device=image.device)
    divergences = [step.divergence for step in output.steps if step.divergence is not None]
    divergence = nothing
    if divergences:
        # By presence: the middle of the Gaussian is for codes of objects, not for those of writes that do nothing. Of
        # each image apart: the whole batch's presence is not known to a worker that has a share of it.
        weights = present.detach() / writes.detach().clamp(min=1e-8)
        divergence = (weights * torch.stack(divergences)).sum(dim=0).mean()
        total = total + config.beta * divergence
    separation, location = pasted or (nothing, nothing)
    if pasted is not None:
        total = total + config.alpha_separation * separation + config.alpha_location * location
    parts = (region, mseot, divergence, separation, location, writes.mean(), errors[-1])
    return Losses(total, *(part.detach() for part in parts))
