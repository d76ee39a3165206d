"""Figures 5 and 9: the error over the iterations of training."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import ndimage

from seqae.config import GrowthStep
from seqae.errors import FigureError
from seqae.figures.figure import Curve, Figure
from seqae.figures.layout import INK, new_plot, rendered
from seqae.rendering.panels import BLUE, PURPLE, VERMILION

__all__ = ["evaluation_curve", "training_curve"]

_SMOOTHED = 0.01  # share of a curve's points to each side that its smoothed line takes the median of


def evaluation_curve(curve: Curve, empty: float | None = None) -> Figure:
    """Figure 5: the error of the last canvas on held-out images, on a logarithmic scale.

    Args:
        curve: mean squared errors.
        empty: error of an empty canvas, if known.

    Raises:
        FigureError: the curve has no point.
    """
    numbers = _summary(curve)
    plot = new_plot()
    axes = plot.axes[0]
    axes.plot(curve.iterations, curve.values, color=BLUE, marker="o", markersize=3, linewidth=1.5)
    if empty is not None:
        _level(axes, empty, "empty canvas")
        numbers["empty"] = empty
    _label(axes, "held-out reconstruction error (MSE)")
    caption = (
        f"Held-out reconstruction error over training (Figure 5): {numbers['last']:.4f} after "
        f"{numbers['iterations']:.0f} iterations, on a logarithmic scale."
    )
    return Figure(rendered(plot), caption, numbers)


def training_curve(curve: Curve, growth: Sequence[GrowthStep] = (), background: float | None = None) -> Figure:
    """Figure 9: the error of the last canvas on the training images, with the iterations at which T grew.

    Args:
        curve: mean squared errors of batches.
        growth: the schedule of T.
        background: error of the background network's canvas alone on these images, if known.

    Returns:
        The figure; `stage_<T>` among its numbers is the mean error over the last tenth of the iterations with T steps,
        and `of_background` the last of these as a share of the background's error.

    Raises:
        FigureError: the curve has no point.
    """
    stages = _stages(curve, growth)
    numbers = _summary(curve) | stages
    plot = new_plot()
    axes = plot.axes[0]
    axes.plot(curve.iterations, curve.values, color=BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(curve.iterations, _smooth(curve.values), color=BLUE, linewidth=1.5)
    for step in growth:
        if 0 < step.iteration <= curve.iterations[-1]:
            axes.axvline(step.iteration, color=VERMILION, linestyle="--", linewidth=1)
        if step.iteration <= curve.iterations[-1]:
            at = (step.iteration, 0.97)
            axes.annotate(f" T = {step.steps}", at, xycoords=axes.get_xaxis_transform(), color=VERMILION, va="top")
    if background is not None:
        _level(axes, background, "background alone")
        last = list(stages.values())[-1] if stages else numbers["last"]
        numbers |= {"background": background, "of_background": last / max(background, 1e-12)}
    _label(axes, "training reconstruction error (MSE)")
    caption = (
        f"Training reconstruction error (Figure 9): {numbers['last']:.4f} after {numbers['iterations']:.0f} "
        "iterations, on a logarithmic scale; dashed where T, the number of writes, grew."
    )
    return Figure(rendered(plot), caption, numbers)


def _summary(curve: Curve) -> dict[str, float]:
    if not len(curve.values):
        raise FigureError("the record of training has no row of this error")
    best = int(curve.values.argmin())
    return {
        "first": float(curve.values[0]),
        "last": float(curve.values[-1]),
        "best": float(curve.values[best]),
        "best_iteration": float(curve.iterations[best]),
        "iterations": float(curve.iterations[-1]),
    }


def _stages(curve: Curve, growth: Sequence[GrowthStep]) -> dict[str, float]:
    """The mean error over the last tenth of each stage that the curve has reached, by its T."""
    edges = [step.iteration for step in growth] + [int(curve.iterations[-1])]
    found = {}
    for step, (start, end) in zip(growth, pairwise(edges), strict=True):
        late = (curve.iterations > end - 0.1 * (end - start)) & (curve.iterations <= end)
        if late.any():
            found[f"stage_{step.steps}"] = float(curve.values[late].mean())
    return found


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median of the points around each: a mean would smear the leap of the error where T grows."""
    reach = max(1, round(_SMOOTHED * len(values)))
    return np.asarray(ndimage.median_filter(values, size=2 * reach + 1, mode="nearest"), np.float64)


def _level(axes: Axes, value: float, text: str) -> None:
    axes.axhline(value, color=PURPLE, linestyle=":", linewidth=1.2)
    across = axes.get_yaxis_transform()
    axes.annotate(f"{text} {value:.4f}", (0.995, value), xycoords=across, color=PURPLE, ha="right", va="bottom")


def _label(axes: Axes, error: str) -> None:
    axes.set_yscale("log")
    axes.set_xlabel("iteration", color=INK)
    axes.set_ylabel(error, color=INK)
    axes.grid(visible=True, which="major", color="#d8dbe2", linewidth=0.6)
    axes.set_axisbelow(True)
