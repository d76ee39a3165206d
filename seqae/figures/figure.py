"""A figure as a value: its picture, the numbers behind it, and its caption."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["NAMES", "Curve", "Figure", "FigureName"]

FigureName = Literal[4, 5, 6, 7, 8, 9, 10, "sample"]
"""The paper's figures that show a result, by number, and scenes sampled from a variational model."""

NAMES: dict[str, FigureName] = {str(name): name for name in get_args(FigureName)}
"""All of them, by how they are written."""


@dataclass(frozen=True)
class Figure:
    """A picture with its caption and numbers."""

    image: Image.Image
    """RGB."""

    caption: str
    """What is seen, and which reading of the paper was chosen where it leaves one."""

    numbers: Mapping[str, float] = field(default_factory=dict)
    """By names that a tracking server takes: letters, digits, `_` and `.`."""


@dataclass(frozen=True)
class Curve:
    """One number over the iterations of training."""

    iterations: NDArray[np.int64]
    """[n], going up."""

    values: NDArray[np.float64]
    """[n]."""
