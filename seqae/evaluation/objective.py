"""Objective by which models are chosen and compared: the share of the error that is left, and the objects mixed up.

The squared error alone would prefer a bottleneck so wide that one write paints two objects. Needs no torch.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["objective", "paired_difference"]

_LEAST_MSE = 1e-12
"""Of images that are all dark: keeps the quotient finite."""


def objective(metrics: Mapping[str, float]) -> float:
    """`mse` / `empty_mse` + (1 - `fg_ari`), or without the second term where there are no masks; lower is better.

    Args:
        metrics: bare names, of one split.

    Raises:
        KeyError: `mse` or `empty_mse` is missing.
    """
    share = metrics["mse"] / max(metrics["empty_mse"], _LEAST_MSE)
    return share + (1 - metrics["fg_ari"]) if "fg_ari" in metrics else share


def paired_difference(challenger: NDArray[np.floating], champion: NDArray[np.floating]) -> tuple[float, float]:
    """How much lower a challenger's objective is than a champion's, over the images of one test split.

    Args:
        challenger: [M], its objective on each image.
        champion: [M], likewise, of the same images in the same order.

    Returns:
        The mean of champion - challenger, above 0 where the challenger is better, and the standard error of that mean;
        that of a single image is infinite.

    Raises:
        ValueError: there are no images, or not as many of one as of the other.
    """
    if challenger.shape != champion.shape or challenger.ndim != 1 or not len(challenger):
        raise ValueError(f"objectives of {challenger.shape} and {champion.shape} images do not pair")
    difference = np.asarray(champion, np.float64) - np.asarray(challenger, np.float64)
    error = float(difference.std(ddof=1)) / len(difference) ** 0.5 if len(difference) > 1 else float("inf")
    return float(difference.mean()), error
