from collections.abc import Callable

import numpy as np
import pytest
import torch

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.figures.sampled import sampled_scenes
from seqae.model import SequentialAutoEncoder
from seqae.sampling import fit_layouts
from tests.untrained import with_random_writes

Config = Callable[..., TrainConfig]
Data = Callable[[TrainConfig], Dataset]


VARIATIONAL = {"coder": {"kind": "variational", "bottleneck": 6}}


@pytest.fixture
def model(small_config: Config) -> SequentialAutoEncoder:
    torch.manual_seed(0)
    return with_random_writes(SequentialAutoEncoder(small_config(model=VARIATIONAL).model))


@pytest.fixture
def images(small_config: Config, small_data: Data) -> np.ndarray:
    return small_data(small_config()).train.images


def test_the_figure_compares_samples_with_training_scenes(model: SequentialAutoEncoder, images: np.ndarray) -> None:
    figure = sampled_scenes(model, images)
    assert figure.numbers["brightness_training"] == pytest.approx(images[:24].mean() / 255, rel=1e-4)
    assert figure.numbers["objects"] == pytest.approx(fit_layouts(model, images).active.sum(axis=1).mean())
