"""Bounding boxes of masks."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["tight_box"]


def tight_box(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """The smallest box around all pixels that are not 0: left, top, right, bottom; right and bottom lie outside.

    Args:
        mask: [H, W], with one such pixel or more.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
