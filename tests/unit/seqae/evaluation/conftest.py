import pytest

from seqae.config import MnistScenesConfig
from seqae.data.digits import bundled_digits
from seqae.data.mnist_scenes import make_scenes
from seqae.data.scenes import Scenes


@pytest.fixture(scope="package")
def digit_scenes() -> Scenes:
    """60 scenes of none to four digits that do not overlap."""
    config = MnistScenesConfig(train_scenes=60, min_digits=0, max_digits=4)
    return make_scenes(config, 64, 64, 1, bundled_digits().train, "train")


@pytest.fixture(scope="package")
def overlapping_scenes() -> Scenes:
    """40 scenes of two to five digits that overlap."""
    config = MnistScenesConfig(train_scenes=40, min_digits=2, max_digits=5, max_overlap=0.4)
    return make_scenes(config, 64, 64, 1, bundled_digits().train, "train")
