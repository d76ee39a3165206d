"""Copy-paste training losses without labels: an object written in one image is pasted beside one of another image.

Nothing in the data says where one object ends and the next begins, and an auto-encoder's loss is as low when one write
covers two objects that touch. But most writes are one object each, so two of them laid over each other make an image
whose parts are known. On it the localization network must find one of the two, and the region coder must write the
first as if the other were not there. Pasting objects to make training images is Ghiasi et al., "Simple Copy-Paste"
(arXiv 2012.07177), with labels.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seqae.attention import Filters, Window, read
from seqae.model import Output, SequentialAutoEncoder
from seqae.networks import Seeker

__all__ = [
    "DRAWS",
    "Composition",
    "CopyPasteLosses",
    "SampledSteps",
    "compose",
    "copy_paste_losses",
    "partners",
    "presence",
    "sample_steps",
]

DRAWS = 3
"""Uniform numbers that an image needs: for its step, and for the distance and the direction of what is pasted."""


_DISTANCE = (0.35, 0.9)  # between the two centres, as shares of the window's side
_HALF_PRESENT = 5.0  # energy (squared intensities, summed) that is half a write at stride 1; a digit has about 70
_MARGIN = 8.0  # pixels: no object is pasted nearer to the image's edge
_HIT = 3.0  # pixels: an anchor this near to a centre counts as that object's
_AROUND = 0.75  # of the window's side: anchors further than this from both centres take no part


class Composition(NamedTuple):
    """Error images, each with the object of another image pasted into it."""

    error: Tensor  # [B, C, H, W]
    x: Tensor  # [B], column of the pasted window's centre
    y: Tensor  # [B], its row


class CopyPasteLosses(NamedTuple):
    """The two losses on composed images: scalars, means over the batch."""

    separation: Tensor
    """Mean squared error of the first object's patch, written off a reading that has both; intensity squared."""

    location: Tensor
    """Negative log likelihood, in nats, that a place near to one of the two centres is chosen among those around, of
    whatever size; an image counts by the presence of both objects."""


def presence(write: Tensor, delta: Tensor) -> Tensor:
    """Soft indicator in 0..1 that a write is an object, [...]: E / (E + 5 delta^2) by its energy E; no write gives 0.

    Args:
        write: [..., C, H, W], what was added to the canvas.
        delta: the window's stride, pixels, [...]. A small object in a small window counts as a large one in a large.
    """
    energy = write.square().sum(dim=(-3, -2, -1))
    return energy / (energy + _HALF_PRESENT * delta.detach().square())


def partners(count: int, device: torch.device) -> Tensor:
    """For each of so many images the one whose object is pasted into it, [count].

    Neighbours lend each other theirs; of an odd number the first three go round. So no image depends on one outside
    its pair, and a batch may be cut between pairs (`seqae.optimization.batches.split`).

    Args:
        count: images of a batch, or of such a part of one.
        device: where the indices shall be.
    """
    index = torch.arange(count, device=device)
    if count % 2 == 0:
        return index ^ 1
    first = min(count, 3)
    return torch.cat((index[:first].roll(1), ((index[first:] - first) ^ 1) + first))


def compose(error: Tensor, write: Tensor, window: Window, kernels: int, drawn: Tensor) -> Composition:
    """Pastes the object written for each image's partner in the batch beside the object of the image itself.

    Where both objects have ink, the stronger shows.

    Args:
        error: [B, C, H, W], what the windows were read off.
        write: [B, C, H, W]; an object is those pixels of `error` of which its write explains more than half.
        window: where it was written, each [B].
        kernels: N; with the window's delta it gives the scale of the distance between the two.
        drawn: uniform numbers for the distance and the direction, [B, 2].
    """
    _, _, height, width = error.shape
    low, high = _DISTANCE
    distance = kernels * window.delta * (low + (high - low) * drawn[:, 0])
    angle = 2 * torch.pi * drawn[:, 1]
    of = partners(len(error), error.device)
    x = _reflected(window.x, distance * angle.cos(), width)
    y = _reflected(window.y, distance * angle.sin(), height)
    # Whole pixels: an object that was blurred by its way here could be told by that.
    right, down = (x - window.x[of]).round(), (y - window.y[of]).round()
    objects = torch.where(write.abs() > 0.5 * error.abs(), error, 0.0)
    pasted = _translated(objects[of], right, down)
    both = torch.where(pasted.abs() > error.abs(), pasted, error)
    return Composition(both, window.x[of] + right, window.y[of] + down)


def _translated(image: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Images [B, C, H, W] translated by whole pixels, `right` and `down` [B]; 0 comes in over the edge."""
    _, channels, height, width = image.shape
    rows = torch.arange(height, device=image.device) - down.long()[:, None]  # [B, H], where each row comes from
    columns = torch.arange(width, device=image.device) - right.long()[:, None]
    known = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    rows = rows.clamp(0, height - 1)[:, None, :, None].expand(-1, channels, -1, width)
    columns = columns.clamp(0, width - 1)[:, None, None, :].expand(-1, channels, height, -1)
    return image.gather(2, rows).gather(3, columns) * known


def _reflected(centre: Tensor, step: Tensor, pixels: int) -> Tensor:
    """`centre + step`, or `centre - step` where that would leave the image; clamped to its inside, each [B]."""
    margin = min(_MARGIN, (pixels - 1) / 2)
    end = centre + step
    out = (end < margin) | (end > pixels - 1 - margin)
    return torch.where(out, centre - step, end).clamp(margin, pixels - 1 - margin)


def copy_paste_losses(
    model: SequentialAutoEncoder,
    image: Tensor,
    output: Output,
    drawn: Tensor,
    target: Literal["window", "object"] = "window",
    noise: Tensor | None = None,
) -> CopyPasteLosses:
    """The losses of one more step, on images composed of what `output`'s steps wrote: for each image, one of them.

    Args:
        model: what made `output`.
        image: [B, C, H, W] in 0..1.
        output: of the model for that image, of one step or more. Nothing of it gets a gradient.
        drawn: uniform numbers in [0, 1), [B, `DRAWS`].
        target: what the first object's patch must be, as `sample_steps` has it.
        noise: of the codes, as `seqae.networks.AutoEncoder.encode` takes it.
    """
    found = sample_steps(image, output, drawn[:, 0], target)
    kernels = found.patch.shape[-1]
    composed = compose(found.error, found.write, found.window, kernels, drawn[:, 1:])
    code = model.coder.encode(read(composed.error, found.filters), noise)
    separation = F.mse_loss(model.coder.decode(code.z).float(), found.patch)
    if not isinstance(model.localizer, Seeker):  # the others have no map of places to choose from
        return CopyPasteLosses(separation, torch.zeros_like(separation))
    present = presence(found.write, found.window.delta)
    # The look joins those of the steps, if they share a backward pass.
    looks = output.looks
    logits = looks.logits(composed.error) if looks else model.localizer.score_anchors(composed.error).logits
    side = kernels * found.window.delta
    location = _location_loss(model.localizer, logits, composed, found.window, side)
    return CopyPasteLosses(separation, (present * present[partners(len(image), image.device)] * location).mean())


class SampledSteps(NamedTuple):
    """Records of one step of each image, which may be another step for each."""

    error: Tensor  # [B, C, H, W], before the write
    write: Tensor  # [B, C, H, W]
    patch: Tensor  # [B, C, N, N], as read, or the object of it alone
    window: Window
    filters: Filters


def sample_steps(
    image: Tensor, output: Output, drawn: Tensor, target: Literal["window", "object"] = "window"
) -> SampledSteps:
    """Draws a step for every image, the t-th with a probability proportional to its presence / t.

    First writes are the cleanest objects; late ones are practice on what is crowded, and on what others left.

    Args:
        image: [B, C, H, W] in 0..1.
        output: of the model for that image, of one step or more.
        drawn: a uniform number in [0, 1) for each image, [B].
        target: "window" takes each step's patch as it was read; "object" leaves out what others of the writes own.
    """
    steps = output.steps
    writes = output.writes.detach()
    windows = output.windows
    numbers = torch.arange(1, len(steps) + 1, device=image.device)
    # All may be 0; after a step that was too large, also NaN, which the trainer reports from the loss.
    present = presence(writes, windows.delta)
    chances = (present.mT / numbers).nan_to_num() + 1e-6  # [B, T]
    # The step at which the sum of the chances passes the number drawn; rounding may leave it a little above their sum.
    sums = chances.cumsum(dim=1)
    which = (sums < drawn[:, None] * sums[:, -1:]).sum(dim=1).clamp(max=len(steps) - 1)
    rows = torch.arange(len(image), device=image.device)

    def of(stacked: Tensor) -> Tensor:
        return stacked.detach()[which, rows]

    error = (image - of(output.canvases[:-1])).detach()
    filters = Filters(*(of(torch.stack(values)) for values in zip(*(step.filters for step in steps), strict=True)))
    if target == "object":
        patch = read(torch.where(_owned(writes, present, which), error, 0.0), filters)
    else:
        patch = of(torch.stack([step.patch_read for step in steps]))
    return SampledSteps(error, of(writes), patch, Window(*map(of, windows)), filters)


def _owned(writes: Tensor, present: Tensor, which: Tensor) -> Tensor:
    """Pixels [B, 1, H, W] at which no other write that is an object is stronger than the one chosen.

    Args:
        writes: [T, B, C, H, W].
        present: their presence, [T, B].
        which: the step chosen for each image, [B].
    """
    strength = writes.abs().sum(dim=2)  # [T, B, H, W]
    chosen = torch.arange(len(writes), device=which.device)[:, None] == which  # [T, B]
    others = strength * ((present > 0.5) & ~chosen)[:, :, None, None]
    return ((strength * chosen[:, :, None, None]).sum(dim=0) >= others.amax(dim=0)).unsqueeze(1)


def _location_loss(seeker: Seeker, logits: Tensor, composed: Composition, window: Window, side: Tensor) -> Tensor:
    """Negative log likelihood [B] that an anchor at one of the two centres is chosen among those around them."""
    first = torch.hypot(seeker.cell_x - window.x[:, None], seeker.cell_y - window.y[:, None])
    pasted = torch.hypot(seeker.cell_x - composed.x[:, None], seeker.cell_y - composed.y[:, None])
    distance = torch.minimum(first, pasted)  # [B, anchors]
    around = distance < (_AROUND * side[:, None]).clamp(min=2 * _HIT)
    hit = (distance < _HIT) | (distance == distance.amin(dim=1, keepdim=True))
    lowest = torch.finfo(logits.dtype).min
    chances = [logits.masked_fill(~anchors, lowest).logsumexp(dim=1) for anchors in (around | hit, hit)]
    return chances[0] - chances[1]
