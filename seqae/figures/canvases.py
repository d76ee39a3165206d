"""Figures 6, 7 and 10: the canvas of a reconstruction, write by write."""

import numpy as np
import torch
from numpy.typing import NDArray

from seqae.data.scenes import Scenes
from seqae.errors import FigureError
from seqae.evaluation.names import before_looks
from seqae.evaluation.scores import object_count, score_owners, tabulate_owners
from seqae.figures.figure import Figure
from seqae.figures.layout import grid, heat, signed
from seqae.figures.readers import density
from seqae.losses import step_errors
from seqae.model import Output, SequentialAutoEncoder
from seqae.rendering.panels import owner_colours, panel, to_bytes
from seqae.segmentation.looks import look_again
from seqae.segmentation.ownership import Ownership, own_pixels
from seqae.tensors import intensities

__all__ = ["from_background", "from_nothing", "reconstruct", "single_steps"]

_PANEL = 128  # pixels
_COLUMNS = 5


def reconstruct(
    model: SequentialAutoEncoder, images: NDArray[np.uint8], steps: int | None = None
) -> tuple[Output, NDArray[np.float32]]:
    """The model's records for images, and the errors of all canvases.

    Args:
        model: on the CPU; it is put into evaluation mode.
        images: uint8 [B, C, H, W].
        steps: T, if not the model's own.

    Returns:
        The records, and mean squared errors [T+1, B].
    """
    given = intensities(images)
    with torch.inference_mode():
        output: Output = model.eval()(given, steps)
        errors: NDArray[np.float32] = step_errors(given, output).numpy()
    return output, errors


def from_nothing(model: SequentialAutoEncoder, scene: Scenes) -> Figure:
    """Figure 6: a scene of many digits at the top left, then, in rows, the canvas after each write, and the owners.

    Args:
        model: makes as many writes as it was trained for, or one for each digit where that is more.
        scene: a single one, with its masks.

    Raises:
        FigureError: the scene has no masks.
    """
    if scene.masks is None or scene.counts is None:
        raise FigureError("these scenes have no masks to tell the digits apart by")
    digits = int(scene.counts[0])
    output, errors = reconstruct(model, scene.images, max(model.config.steps, digits))
    written, looked = _owned(model, scene.images, output)
    panels, captions = [panel(to_bytes(scene.images[0] / 255), _PANEL)], [f"original: {digits} digits"]
    for t, step in enumerate(output.steps, start=1):
        panels.append(panel(to_bytes(step.canvas[0].numpy()), _PANEL))
        captions.append(f"{t}: {errors[t, 0]:.4f}")
    panels.append(panel(owner_colours(looked.owners[0].numpy()), _PANEL))
    captions.append("owners")
    rows = [panels[at : at + _COLUMNS] for at in range(0, len(panels), _COLUMNS)]
    below = [captions[at : at + _COLUMNS] for at in range(0, len(panels), _COLUMNS)]
    numbers = {f"mse_{t}": float(error[0]) for t, error in enumerate(errors)}
    numbers |= _segment_scores(looked, scene)
    numbers |= {before_looks(name): score for name, score in _segment_scores(written, scene).items()}
    caption = (
        f"A test scene of {digits} digits, then the canvas after each write with its mean squared error (Figure 6), "
        f"and the write that each pixel belongs to; FG-ARI {numbers['fg_ari']:.3f}, "
        f"{numbers[before_looks('fg_ari')]:.3f} before looking again."
    )
    return Figure(grid(rows, captions=below), caption, numbers)


def _owned(model: SequentialAutoEncoder, images: NDArray[np.uint8], output: Output) -> tuple[Ownership, Ownership]:
    """Ownership of pixels by the writes, and after looking again.

    Args:
        model: what made `output`.
        images: uint8 [B, C, H, W].
        output: of the model for these images.
    """
    image = intensities(images)
    with torch.inference_mode():
        written = own_pixels(image, output, has_background=model.background is not None)
        return written, look_again(model, image, output, written)


def _segment_scores(found: Ownership, scene: Scenes) -> dict[str, float]:
    tables = tabulate_owners(found.owners.numpy(), scene, segments=len(found.strengths), objects=object_count(scene))
    scores = score_owners(tables)
    return {"fg_ari": scores.fg_ari.mean, "miou": scores.miou.mean}


def single_steps(model: SequentialAutoEncoder, image: NDArray[np.uint8]) -> Figure:
    """Figure 7: a row for each step: attention map, patch written, canvas, patch read, segment, and the image.

    The segment is what the step owns after looking again. Patches may be below 0, where the canvas is too bright; that
    is shown in blue.

    Args:
        model: makes the writes that it was trained for.
        image: uint8 [C, H, W].
    """
    output, errors = reconstruct(model, image[None])
    original = panel(to_bytes(image / 255), _PANEL)
    owners = _owned(model, image[None], output)[1].owners[0].numpy()
    rows, labels = [], []
    numbers = {"mse_0": float(errors[0, 0])}
    for t, step in enumerate(output.steps, start=1):
        canvas = panel(to_bytes(step.canvas[0].numpy()), _PANEL)
        written, read = (panel(signed(one[0].numpy()), _PANEL) for one in (step.patch_written, step.patch_read))
        segment = panel(owner_colours(np.where(owners == t, owners, np.uint8(0))), _PANEL)
        rows.append([panel(heat(density(step.filters)[0]), _PANEL), written, canvas, read, segment, original])
        labels.append(f"{t}\n{errors[t, 0]:.4f}")
        numbers |= {f"mse_{t}": float(errors[t, 0]), f"energy_{t}": float(step.write.square().sum())}
        numbers[f"pixels_{t}"] = float((owners == t).sum())
    titles = ("attention", "patch written", "canvas", "patch read", "segment", "original")
    caption = (
        "The steps of one reconstruction, from the top (Figure 7). Below each step's number the error of its canvas; "
        "patches below 0 are blue. A segment is what its write owns after looking again."
    )
    return Figure(grid(rows, titles, labels=labels), caption, numbers)


def from_background(model: SequentialAutoEncoder, images: NDArray[np.uint8]) -> Figure:
    """Figure 10: for each image a row with the background's canvas, the canvas after each write, segments, the image.

    Segments are those after looking again, in the colours of their steps.

    Args:
        model: with a background network.
        images: uint8 [B, C, H, W].

    Raises:
        FigureError: the model has no background network.
    """
    if model.background is None:
        raise FigureError("the model has no background network, from which Figure 10 starts; set model.background")
    output, errors = reconstruct(model, images)
    owners = _owned(model, images, output)[1].owners.numpy()
    rows, captions = [], []
    for at, image in enumerate(images):
        canvases = [panel(to_bytes(canvas.numpy()), _PANEL) for canvas in output.canvases[:, at]]
        rows.append([*canvases, panel(owner_colours(owners[at]), _PANEL), panel(to_bytes(image / 255), _PANEL)])
        captions.append([*(f"{error:.4f}" for error in errors[:, at]), "", ""])
    numbers = {f"mse_{t}": float(error.mean()) for t, error in enumerate(errors)}
    numbers |= {"images": float(len(images)), "of_background": numbers[f"mse_{len(output.steps)}"] / numbers["mse_0"]}
    titles = ["background", *(f"write {t}" for t in range(1, len(errors))), "segments", "original"]
    caption = (
        "The canvas from the background network's on, with the mean squared error below; then the write that each "
        "pixel belongs to, and the image (Figure 10)."
    )
    return Figure(grid(rows, titles, captions), caption, numbers)
