"""Pictures of the scoreboard: every method's segments of the same scenes, and FG-ARI over minutes of training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seqae.data.scenes import Scenes
from seqae.figures.layout import grid, new_plot, rendered
from seqae.peers.runs import GOOD_ARI, Result
from seqae.peers.settings import MethodName
from seqae.rendering.panels import owner_colours, panel

__all__ = ["Shown", "draw_curves", "draw_segments"]

_PANEL = 128  # pixels: height


@dataclass(frozen=True)
class Shown:
    """Scenes, and what methods make of them."""

    scenes: Scenes
    owners: dict[MethodName, NDArray[np.integer]]
    """[M, H, W] by method."""


def draw_segments(shown: Shown) -> Image.Image:
    """A row for each scene: the image, its objects, and the segments of each method in colours of their own.

    Raises:
        ValueError: the scenes have no masks.
    """
    if shown.scenes.masks is None:
        raise ValueError("these images have no masks to show")
    columns = {"objects": shown.scenes.masks} | {str(name): owners for name, owners in shown.owners.items()}
    rows = []
    for at, image in enumerate(shown.scenes.images):
        coloured = (owner_colours(np.asarray(owners[at], np.uint8)) for owners in columns.values())
        rows.append([panel(picture, _PANEL) for picture in (np.moveaxis(image, 0, -1), *coloured)])
    return grid(rows, titles=["image", *columns])


def draw_curves(results: Sequence[Result]) -> Image.Image:
    """FG-ARI on `val` over CPU minutes of training, on a scale of roots; what learns nothing is a level line."""
    plot = new_plot()
    axes = plot.axes[0]
    for result in results:
        if not result.points:
            continue
        if result.method.learns:
            minutes = [point.minutes for point in result.points]
            axes.plot(minutes, [point.fg_ari for point in result.points], marker=".", label=result.method)
        else:
            axes.axhline(result.points[-1].fg_ari, linestyle="--", color="0.5", label=f"{result.method} (not trained)")
    axes.axhline(GOOD_ARI, linestyle=":", color="0.7")
    axes.set_xscale("function", functions=(np.sqrt, np.square))
    axes.set(xlabel="CPU minutes of training", ylabel="FG-ARI on val", xlim=(0, None))
    axes.set_title(", ".join(sorted({str(result.scenes) for result in results})), fontsize=10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    return rendered(plot)
