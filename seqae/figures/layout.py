"""Layout of figures: colour maps of arrays, grids of panels with titles, matplotlib's plots without shared state."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Plot
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from seqae.rendering.panels import GAP, PAPER, TEXT, quantize, to_bytes

__all__ = ["INK", "grid", "heat", "new_plot", "rendered", "signed"]

INK = "#20242c"
"""What is written in a plot."""

_TITLE = 18  # pixels: height of the line above a column or below a panel

Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating]


def signed(image: Floats) -> Bytes:
    """[C, H, W] of intensities in -1..1 -> uint8 [H, W, 3]; in grey images what is below 0 is shown in blue.

    In colour there is no room for a sign: there it is clipped.
    """
    if image.shape[0] != 1:
        return to_bytes(image)
    above, below = image[0].clip(0, 1), (-image[0]).clip(0, 1)
    rgb = np.stack([above, above + 0.45 * below, above + below], axis=-1)
    return quantize(rgb)


def heat(density: Floats) -> Bytes:
    """[H, W] of weights from 0 up, the largest made the brightest colour -> uint8 [H, W, 3]."""
    scaled = density / max(float(density.max()), 1e-12)
    return np.asarray(colormaps["magma"](scaled)[..., :3] * 255, np.uint8)


def grid(
    rows: Sequence[Sequence[Image.Image]],
    titles: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    labels: Sequence[str] = (),
) -> Image.Image:
    """Panels in rows and columns; each column is as wide as its widest panel.

    Args:
        rows: of panels; the last row may be shorter.
        titles: one above each column.
        captions: one below each panel, in the same rows.
        labels: one to the left of each row; may have line breaks.
    """
    font = ImageFont.load_default(size=12)
    widths = [max(row[at].width for row in rows if at < len(row)) for at in range(max(map(len, rows)))]
    below = _TITLE if captions else 0
    heights = [max(one.height for one in row) + below for row in rows]
    margin = max((_text_width(label, font) for label in labels), default=0) + (3 * GAP if labels else 0)
    top = GAP + (_TITLE if titles else 0)
    size = (margin + sum(widths) + GAP * (len(widths) + 1), top + sum(heights) + GAP * len(rows))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    lefts = [margin + GAP + sum(widths[:at]) + GAP * at for at in range(len(widths))]
    for left, title in zip(lefts, titles, strict=False):
        draw.text((left + 1, GAP), title, fill=TEXT, font=font)
    for number, row in enumerate(rows):
        for at, one in enumerate(row):
            sheet.paste(one, (lefts[at], top))
            if captions:
                draw.text((lefts[at] + 1, top + one.height + 1), captions[number][at], fill=TEXT, font=font)
        if labels:
            _, above, _, under = draw.multiline_textbbox((0, 0), labels[number], font=font)
            start = top + (heights[number] - below - round(under - above)) // 2
            draw.multiline_text((GAP, start), labels[number], fill=TEXT, font=font)
        top += heights[number] + GAP
    return sheet


def _text_width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return max(round(font.getlength(line)) for line in text.split("\n"))


def new_plot(width: float = 7.0, height: float = 3.6, columns: int = 1) -> Plot:
    """An empty plot in matplotlib's object interface, whose figures end with their last reference.

    Args:
        width: inches, of 100 pixels.
        height: likewise.
        columns: axes side by side, to be had from `axes`.
    """
    plot = Plot(figsize=(width, height), dpi=100, layout="constrained")
    plot.subplots(1, columns)
    for axes in plot.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return plot


def rendered(plot: Plot) -> Image.Image:
    """The plot as an RGB image."""
    canvas = FigureCanvasAgg(plot)
    canvas.draw()  # type: ignore[no-untyped-call]
    return Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]
