"""Pictures of a reconstruction: a filmstrip of its steps, an animation, and plain PNG. PIL and numpy only, no torch."""

import io
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from seqae.rendering.panels import GAP, PAPER, STEP_COLOURS, TEXT, owner_colours, panel, picture

__all__ = ["animation", "contact_sheet", "filmstrip", "png"]

_CAPTION = 16  # pixels: height of the line under a panel
_STEP_MS, _LAST_MS = 600, 1800  # how long an animation shows a step, and the last one


class _Step(Protocol):
    """A write, as far as it is drawn: see `seqae.reconstruction.AttentionStep`."""

    @property
    def window(self) -> tuple[float, float, float, float]: ...


class _Reconstruction(Protocol):
    """What is drawn: a `seqae.reconstruction.Reconstruction`, which draws itself in a notebook."""

    @property
    def input(self) -> np.ndarray: ...
    @property
    def frames(self) -> np.ndarray: ...
    @property
    def steps(self) -> Sequence[_Step]: ...
    @property
    def error(self) -> Sequence[float]: ...
    @property
    def owners(self) -> np.ndarray: ...


def filmstrip(reconstruction: _Reconstruction, scale: int = 3) -> Image.Image:
    """The input, then the canvas after each write with that write's window drawn on it; step and error below each.

    A canvas that is not empty before the first write, as a background network paints it, is shown as step 0. The last
    panel has the segments after looking again, each in the colour of its step.

    Args:
        reconstruction: what the model did with one picture.
        scale: pixels of the strip for one pixel of the model's image.

    Returns:
        An RGB image of one row of panels.
    """
    panels = [_captioned(reconstruction.input, "input", scale)]
    if reconstruction.frames[0].any():
        panels.append(_step(reconstruction, 0, scale))
    steps = len(reconstruction.frames) - 1
    panels += [_step(reconstruction, step, scale) for step in range(1, steps + 1)]
    return _row([*panels, _segments(reconstruction, steps, scale)])


def animation(reconstruction: _Reconstruction, scale: int = 4) -> bytes:
    """A GIF that repeats for ever, step after step: the input, the canvas, and the segments of the steps so far.

    Segments are those after looking again. The first frame is step 0.

    Args:
        reconstruction: what the model did with one picture.
        scale: pixels of the animation for one pixel of the model's image.
    """
    given = _captioned(reconstruction.input, "input", scale)
    images = [
        _row([given, _step(reconstruction, step, scale), _segments(reconstruction, step, scale)])
        for step in range(len(reconstruction.frames))
    ]
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
    picture(image).save(stream, "PNG")
    return stream.getvalue()


def contact_sheet(strips: Sequence[Image.Image]) -> Image.Image:
    """Filmstrips below each other, on one RGB image as wide as the widest.

    Raises:
        ValueError: there are none.
    """
    if not strips:
        raise ValueError("no filmstrips to put on the sheet")
    height = sum(strip.height for strip in strips)
    sheet = Image.new("RGB", (max(strip.width for strip in strips), height), PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _step(reconstruction: _Reconstruction, step: int, scale: int) -> Image.Image:
    """The canvas after `step` writes; 0 is before the first, and has no window."""
    shown = _captioned(reconstruction.frames[step], f"{step}: {reconstruction.error[step]:.4f}", scale)
    if step == 0:
        return shown
    height, width = reconstruction.frames[step].shape[:2]
    left, top, right, bottom = (edge * scale for edge in reconstruction.steps[step - 1].window)
    # Where a window reaches over the edge of the image, the side outside is not drawn.
    draw = ImageDraw.Draw(shown)
    colour = STEP_COLOURS[(step - 1) % len(STEP_COLOURS)]
    inside = np.clip([left, top, right, bottom], 0, [width * scale - 1, height * scale - 1] * 2)
    x = [int(inside[0]), int(inside[2])]
    y = [int(inside[1]), int(inside[3])]
    for visible, ends in (
        (left >= 0, (x[0], y[0], x[0], y[1])),
        (right <= width * scale, (x[1], y[0], x[1], y[1])),
        (top >= 0, (x[0], y[0], x[1], y[0])),
        (bottom <= height * scale, (x[0], y[1], x[1], y[1])),
    ):
        if visible:
            draw.line(ends, fill=colour, width=max(1, scale // 3))
    draw.rectangle((0, height * scale + 3, 6, height * scale + _CAPTION - 4), fill=colour)
    return shown


def _segments(reconstruction: _Reconstruction, steps: int, scale: int) -> Image.Image:
    """The pixels that the first steps own, each in its step's colour; black is background, or a later step's."""
    owners = reconstruction.owners
    return _captioned(owner_colours(np.where(owners <= steps, owners, np.uint8(0))), "segments", scale)


def _captioned(image: NDArray[np.uint8], caption: str, scale: int) -> Image.Image:
    """A panel with a line of text below it."""
    above = panel(image, image.shape[0] * scale)
    captioned = Image.new("RGB", (above.width, above.height + _CAPTION), PAPER)
    captioned.paste(above)
    ImageDraw.Draw(captioned).text((10, above.height + 2), caption, fill=TEXT, font=ImageFont.load_default(size=11))
    return captioned


def _row(panels: list[Image.Image]) -> Image.Image:
    width = sum(one.width + GAP for one in panels) + GAP
    row = Image.new("RGB", (width, panels[0].height + GAP), PAPER)
    left = GAP
    for one in panels:
        row.paste(one, (left, GAP))
        left += one.width + GAP
    return row
