"""An untrained model that looks about, and what tests ask of a figure."""

import numpy as np
import torch
from numpy.typing import NDArray

from seqae.config import TrainConfig
from seqae.figures.figure import Curve, Figure
from seqae.model import SequentialAutoEncoder
from tests.untrained import with_random_writes


def make_model(config: TrainConfig) -> SequentialAutoEncoder:
    """Untrained, but with a localization network that looks about."""
    torch.manual_seed(0)
    model = with_random_writes(SequentialAutoEncoder(config.model))
    with torch.no_grad():
        for parameter in model.localizer.head.parameters():  # type: ignore[union-attr]
            parameter.normal_(std=0.3)
    return model


def pixels(figure: Figure) -> NDArray[np.uint8]:
    assert figure.image.mode == "RGB"
    return np.asarray(figure.image)


def has_colour(figure: Figure, colour: tuple[int, int, int]) -> bool:
    return bool((pixels(figure) == colour).all(axis=2).any())


def curve(values: list[float], stride: int = 10) -> Curve:
    return Curve(np.arange(1, len(values) + 1) * stride, np.array(values))
