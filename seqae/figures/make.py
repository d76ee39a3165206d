"""Makes a figure, by its number, from a checkpoint, its data, and its record of training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqae.checkpoints import checkpoint
from seqae.checkpoints.manifest import verify
from seqae.config import DataConfig, MnistScenesConfig, TrainConfig
from seqae.data.cache import Dataset, load_data
from seqae.data.digits import Digits, load_digits
from seqae.data.mnist_scenes import make_scenes
from seqae.data.scenes import Scenes
from seqae.errors import FigureError
from seqae.figures.canvases import from_background, from_nothing, reconstruct, single_steps
from seqae.figures.curves import evaluation_curve, training_curve
from seqae.figures.embeddings import make_trajectory, trajectory_embeddings
from seqae.figures.figure import Curve, Figure, FigureName
from seqae.figures.readers import readers
from seqae.figures.sampled import sampled_scenes
from seqae.model import SequentialAutoEncoder

__all__ = ["CURVES", "Material", "make_figure"]

CURVES = ("val/mse", "val/empty_mse", "train/mse")
"""What figures plot of a record of training, by the names that job folders use."""

_SOME_DIGITS = 4  # in Figure 4
_MANY_DIGITS = 7  # in Figure 6
_FEW_DIGITS = 2  # in Figure 7
_IMAGES = 2  # in Figure 10
_AT_MOST = 500  # training images that are looked at


@dataclass(frozen=True)
class Material:
    """Inputs of figures. Each figure needs only a part of them."""

    cache_dir: Path
    """Built data sets."""

    data_dir: Path | None = None
    """The user's own data."""

    checkpoint: Path | None = None
    """A trained model; all figures but 4, 5 and 9 need one."""

    config: TrainConfig | None = None
    """Of the run, where there is no checkpoint."""

    data: DataConfig | None = None
    """Images to look at, in place of those that the model was trained on."""

    curves: Mapping[str, Curve] = field(default_factory=dict)
    """The record of training, by the names in CURVES; 5 and 9 need it."""


def make_figure(name: FigureName, material: Material, *, index: int = 0, seed: int = 0) -> Figure:
    """One of the paper's figures.

    Args:
        name: its number, or "sample".
        material: the model, or the record of its training.
        index: which scene or image is shown, counted from 0, so that the first is nobody's choice.
        seed: of what is random in it: t-SNE, samples.

    Raises:
        FigureError: the material lacks what this figure shows.
        SamplingError: see `seqae.sampling`.
        CheckpointError: the checkpoint is damaged.
        DataError: its data is missing or damaged.
    """
    loader = _Loader(material, index, seed)
    match name:
        case 4:
            return readers(loader.image(_SOME_DIGITS))
        case 5:
            empty = material.curves.get("val/empty_mse")
            return evaluation_curve(loader.curve("val/mse"), None if empty is None else float(empty.values[-1]))
        case 6:
            return from_nothing(loader.model, loader.scene(_MANY_DIGITS))
        case 7:
            return single_steps(loader.model, loader.image(_FEW_DIGITS))
        case 8:
            return loader.trajectory_figure()
        case 9:
            return training_curve(loader.curve("train/mse"), loader.config.schedule.growth, loader.background_error())
        case 10:
            return from_background(loader.model, loader.train_images(_IMAGES))
        case "sample":
            return sampled_scenes(loader.model, loader.train_images(_AT_MOST), seed)


class _Loader:
    """Lazy loader of the model, data and curves that a figure asks for."""

    def __init__(self, material: Material, index: int, seed: int) -> None:
        self._material = material
        self._index = index
        self._seed = seed

    @cached_property
    def _checkpoint(self) -> Path | None:
        """The checkpoint, verified when first needed: a curve can be had from a run whose checkpoint is damaged."""
        if self._material.checkpoint is not None:
            verify(self._material.checkpoint)
        return self._material.checkpoint

    @cached_property
    def config(self) -> TrainConfig:
        if self._checkpoint is None:
            return self._material.config or TrainConfig()
        return checkpoint.read_config(self._checkpoint)

    @cached_property
    def _data(self) -> DataConfig:
        return self._material.data or self.config.data

    @cached_property
    def model(self) -> SequentialAutoEncoder:
        if self._checkpoint is None:
            raise FigureError("this figure is made from a trained model, and none was given")
        return checkpoint.load_model(self._checkpoint)

    def curve(self, name: str) -> Curve:
        curve = self._material.curves.get(name)
        if curve is None:
            raise FigureError(f"this figure is made from a job's record of {name}, and there is none")
        return curve

    def image(self, digits: int) -> NDArray[np.uint8]:
        """A test image [C, H, W]; where images are made of digits, with so many, or as many as they have at most."""
        if isinstance(self._data, MnistScenesConfig):
            return np.asarray(self.scene(min(digits, self._data.max_digits)).images[0])
        return np.asarray(self._pick(self._dataset().test.images, 1)[0])

    def scene(self, digits: int) -> Scenes:
        """One test scene of so many digits, otherwise as the settings say."""
        model = self.config.model
        data = self._digit_scenes().model_copy(update={"min_digits": digits, "max_digits": digits})
        number = range(self._index, self._index + 1)
        return make_scenes(data, model.height, model.width, model.channels, self._digits(), "test", number)

    def train_images(self, count: int) -> NDArray[np.uint8]:
        return self._pick(self._dataset().train.images, count)

    def trajectory_figure(self) -> Figure:
        model, scale = self.config.model, self._digit_scenes().min_scale
        trajectory = make_trajectory(self._digits(), model.height, model.width, model.channels, scale)
        return trajectory_embeddings(self.model, trajectory, self._seed)

    def background_error(self) -> float | None:
        """What the background network alone leaves of the training images; None without one."""
        if self._checkpoint is None or self.config.model.background is None:
            return None
        return float(reconstruct(self.model, self._dataset().train.images[:_AT_MOST], 0)[1].mean())

    def _digit_scenes(self) -> MnistScenesConfig:
        if not isinstance(self._data, MnistScenesConfig):
            raise FigureError("this figure is made of digits, and the model of other images; give other data")
        return self._data

    def _digits(self) -> Digits:
        return load_digits(self._digit_scenes().digits, self._material.cache_dir, self._material.data_dir).test

    def _dataset(self) -> Dataset:
        return load_data(self._data, self.config.model, self._material.cache_dir, self._material.data_dir)

    def _pick(self, images: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
        if self._index >= len(images):
            raise FigureError(f"there are {len(images)} images, so the last has index {len(images) - 1}")
        return images[self._index : self._index + count]
