"""Pictures of a reconstruction: a filmstrip of its steps, an animation, and plain PNG. PIL and numpy only, no torch."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:  # the reconstructor imports torch, which a picture does not need
    from seqae.reconstructor import Reconstruction

__all__ = ["animation", "contact_sheet", "filmstrip", "png"]

_GAP = 4  # pixels between panels, and between strips
_CAPTION = 16  # height of the line under a panel
_PAPER, _INK = (24, 26, 31), (220, 222, 228)
# One colour per step, which most colour-blind eyes can tell apart (Okabe and Ito's set, less the black).
_COLOURS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178))
_STEP_MS, _LAST_MS = 600, 1800  # how long an animation shows a step, and the last one


def filmstrip(reconstruction: "Reconstruction", scale: int = 3) -> Image.Image:
    """The input, then the canvas after each write with that write's window drawn on it; step and error below each.

    A canvas that is not empty before the first write, as a background network paints it, is shown as step 0.

    Args:
        reconstruction: what the model did with one picture.
        scale: pixels of the strip for one pixel of the model's image.

    Returns:
        An RGB image of one row of panels.
    """
    panels = [_panel(reconstruction.input, "input", scale)]
    if reconstruction.frames[0].any():
        panels.append(_step(reconstruction, 0, scale))
    panels += [_step(reconstruction, step, scale) for step in range(1, len(reconstruction.frames))]
    return _row(panels)


def animation(reconstruction: "Reconstruction", scale: int = 4) -> bytes:
    """A GIF that repeats for ever: the input beside the canvas, step after step; the first frame is step 0.

    Args:
        reconstruction: what the model did with one picture.
        scale: pixels of the animation for one pixel of the model's image.
    """
    given = _panel(reconstruction.input, "input", scale)
    images = [_row([given, _step(reconstruction, step, scale)]) for step in range(len(reconstruction.frames))]
    shown = [_STEP_MS] * (len(images) - 1) + [_LAST_MS]
    stream = io.BytesIO()
    images[0].save(stream, "GIF", save_all=True, append_images=images[1:], duration=shown, loop=0)
    return stream.getvalue()


def png(image: NDArray[np.uint8]) -> bytes:
    """An image as PNG.

    Args:
        image: uint8 [H, W], [H, W, 1] or [H, W, 3].
    """
    stream = io.BytesIO()
    _picture(image).save(stream, "PNG")
    return stream.getvalue()


def contact_sheet(strips: Sequence[Image.Image]) -> Image.Image:
    """Filmstrips below each other, on one RGB image as wide as the widest.

    Raises:
        ValueError: there are none.
    """
    if not strips:
        raise ValueError("no filmstrips to put on the sheet")
    height = sum(strip.height for strip in strips)
    sheet = Image.new("RGB", (max(strip.width for strip in strips), height), _PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _step(reconstruction: "Reconstruction", step: int, scale: int) -> Image.Image:
    """The canvas after `step` writes; 0 is before the first, and has no window."""
    panel = _panel(reconstruction.frames[step], f"{step}: {reconstruction.error[step]:.4f}", scale)
    if step == 0:
        return panel
    height, width = reconstruction.frames[step].shape[:2]
    left, top, right, bottom = (edge * scale for edge in reconstruction.steps[step - 1].window)
    # Where a window reaches over the edge of the image, the side outside is not drawn.
    draw = ImageDraw.Draw(panel)
    colour = _COLOURS[(step - 1) % len(_COLOURS)]
    inside = np.clip([left, top, right, bottom], 0, [width * scale - 1, height * scale - 1] * 2)
    x = [int(inside[0]), int(inside[2])]
    y = [int(inside[1]), int(inside[3])]
    for shown, ends in (
        (left >= 0, (x[0], y[0], x[0], y[1])),
        (right <= width * scale, (x[1], y[0], x[1], y[1])),
        (top >= 0, (x[0], y[0], x[1], y[0])),
        (bottom <= height * scale, (x[0], y[1], x[1], y[1])),
    ):
        if shown:
            draw.line(ends, fill=colour, width=max(1, scale // 3))
    draw.rectangle((0, height * scale + 3, 6, height * scale + _CAPTION - 4), fill=colour)
    return panel


def _panel(image: NDArray[np.uint8], caption: str, scale: int) -> Image.Image:
    """An image enlarged without smoothing, a line of text below it."""
    height, width = image.shape[0] * scale, image.shape[1] * scale
    panel = Image.new("RGB", (width, height + _CAPTION), _PAPER)
    panel.paste(_picture(image).convert("RGB").resize((width, height), Image.Resampling.NEAREST))
    ImageDraw.Draw(panel).text((10, height + 2), caption, fill=_INK, font=ImageFont.load_default(size=11))
    return panel


def _row(panels: list[Image.Image]) -> Image.Image:
    width = sum(panel.width + _GAP for panel in panels) + _GAP
    row = Image.new("RGB", (width, panels[0].height + _GAP), _PAPER)
    left = _GAP
    for panel in panels:
        row.paste(panel, (left, _GAP))
        left += panel.width + _GAP
    return row


def _picture(image: NDArray[np.uint8]) -> Image.Image:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"not an image: {image.dtype} {image.shape}; uint8 [H, W], [H, W, 1] or [H, W, 3] is")
    return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
