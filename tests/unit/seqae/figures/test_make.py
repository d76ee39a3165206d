"""Every figure by its name, and what is said of one that can't be made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqae.config import ImagesConfig, TrainConfig
from seqae.data.cache import Dataset
from seqae.errors import CheckpointError, DataError, FigureError
from seqae.figures.figure import NAMES, FigureName
from seqae.figures.make import Material, make_figure
from seqae.training import Trainer
from tests.unit.seqae.figures.helpers import curve, pixels
from tests.untrained import with_random_writes

Config = Callable[..., TrainConfig]
Data = Callable[[TrainConfig], Dataset]


@pytest.fixture
def material(small_config: Config, small_data: Data, tmp_path: Path) -> Callable[..., Material]:
    """A checkpoint of an untrained model with made-up curves; parts of the config go over the small one."""

    def make(**parts: Any) -> Material:
        config = small_config(**parts)
        trainer = Trainer(config, small_data(config))
        with_random_writes(trainer.model)
        trainer.save(tmp_path / "checkpoint")
        curves = {name: curve([0.2, 0.1]) for name in ("val/mse", "val/empty_mse", "train/mse")}
        return Material(tmp_path / "cache", checkpoint=tmp_path / "checkpoint", curves=curves)

    return make


BACKGROUND_AND_SAMPLING = {
    "coder": {"kind": "variational", "bottleneck": 16},
    "background": {"bottleneck": 4},
    "height": 48,
    "width": 48,
}


@pytest.mark.parametrize("name", NAMES.values())
def test_every_figure_can_be_made_from_a_checkpoint(name: FigureName, material: Callable[..., Material]) -> None:
    figure = make_figure(name, material(model=BACKGROUND_AND_SAMPLING))
    assert figure.caption.endswith(".")
    assert figure.numbers
    assert all(np.isfinite(value) for value in figure.numbers.values())
    assert np.ptp(pixels(figure)) > 100


def test_a_figure_is_the_same_each_time_and_another_scene_is_another_figure(material: Callable[..., Material]) -> None:
    made = material()
    first, again, other = (make_figure(7, made, index=index) for index in (0, 0, 1))
    assert first.numbers == again.numbers != other.numbers
    np.testing.assert_array_equal(pixels(first), pixels(again))


@pytest.mark.parametrize("name", [6, 7, 8, 10, "sample"])
def test_what_needs_a_model_says_so(name: FigureName, tmp_path: Path) -> None:
    with pytest.raises(FigureError, match="trained model"):
        make_figure(name, Material(tmp_path))


@pytest.mark.parametrize("name", [5, 9])
def test_what_needs_a_record_says_so(name: FigureName, tmp_path: Path) -> None:
    with pytest.raises(FigureError, match="record"):
        make_figure(name, Material(tmp_path))


def test_readers_need_no_model(tmp_path: Path) -> None:
    assert make_figure(4, Material(tmp_path)).numbers["mse_n42_sigma0.01"] < 0.1


def test_a_damaged_checkpoint_is_an_error(material: Callable[..., Material]) -> None:
    made = material()
    assert made.checkpoint is not None
    (made.checkpoint / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError):
        make_figure(7, made)


def test_figures_of_digits_refuse_a_folder_of_images(material: Callable[..., Material], tmp_path: Path) -> None:
    made = material()
    other = Material(made.cache_dir, checkpoint=made.checkpoint, data=ImagesConfig(path=str(tmp_path)))
    with pytest.raises(FigureError, match="digits"):
        make_figure(6, other)


def test_an_image_that_is_not_there_is_an_error(material: Callable[..., Material]) -> None:
    with pytest.raises(FigureError, match="there are 30 images"):
        make_figure(10, material(model={"background": {"bottleneck": 4}}), index=30)


def test_digits_that_do_not_fit_are_an_error(material: Callable[..., Material]) -> None:
    with pytest.raises(DataError, match="do not fit"):
        make_figure(6, material(data={"min_scale": 0.85, "max_scale": 0.85}))
