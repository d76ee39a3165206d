"""Objective by which models are chosen and compared: the share of the error that is left, and the objects mixed up.

The squared error alone would prefer a bottleneck so wide that one write paints two objects. Needs no torch.
"""

from collections.abc import Mapping

__all__ = ["objective"]

_LEAST_MSE = 1e-12
"""Of images that are all dark: keeps the quotient finite."""


def objective(metrics: Mapping[str, float]) -> float:
    """`mse` / `empty_mse` + (1 - `fg_ari`), or without the second term where there are no masks; lower is better.

    `fg_ari` is the one after looking again, which is what is served.

    Args:
        metrics: bare names, of one split.

    Raises:
        KeyError: `mse` or `empty_mse` is missing.
    """
    share = metrics["mse"] / max(metrics["empty_mse"], _LEAST_MSE)
    return share + (1 - metrics["fg_ari"]) if "fg_ari" in metrics else share
