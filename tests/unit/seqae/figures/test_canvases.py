"""Figures 6, 7 and 10: numbers that can be had another way."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.data.scenes import Scenes
from seqae.errors import FigureError
from seqae.evaluation.scores import score_owners, tabulate_owners
from seqae.figures.canvases import from_background, from_nothing, reconstruct, single_steps
from seqae.model import Output, SequentialAutoEncoder
from seqae.rendering.panels import owner_colours, panel, to_bytes
from seqae.segmentation.looks import look_again
from seqae.segmentation.ownership import own_pixels
from seqae.tensors import intensities
from tests.unit.seqae.figures.helpers import make_model, pixels

Config = Callable[..., TrainConfig]
Data = Callable[[TrainConfig], Dataset]


def _looked(model: SequentialAutoEncoder, images: NDArray[np.uint8], output: Output) -> NDArray[np.uint8]:
    """Owners [B, H, W] after looking again."""
    image = intensities(images)
    with torch.no_grad():
        found = own_pixels(image, output, has_background=model.background is not None)
        owners: NDArray[np.uint8] = look_again(model, image, output, found).owners.numpy()
    return owners


def test_many_digits_get_a_write_each_and_the_errors_are_the_models(small_config: Config, small_data: Data) -> None:
    config = small_config(data={"min_digits": 5, "max_digits": 5, "min_scale": 0.3, "max_scale": 0.3, "test_scenes": 1})
    model, scene = make_model(config), small_data(config).test
    assert config.model.steps == 3
    figure = from_nothing(model, scene)
    output, errors = reconstruct(model, scene.images, 5)
    assert [figure.numbers[f"mse_{t}"] for t in range(6)] == pytest.approx(errors[:, 0].tolist())
    by_hand = ((scene.images[0] / 255 - output.steps[1].canvas[0].numpy()) ** 2).mean()
    assert figure.numbers["mse_2"] == pytest.approx(by_hand, rel=1e-4)
    image = intensities(scene.images)
    written = own_pixels(image, output, has_background=False)
    with torch.no_grad():
        looked = look_again(model, image, output, written)
    for owners, ending in ((looked.owners.numpy(), ""), (written.owners.numpy(), "_writes")):
        scores = score_owners(tabulate_owners(owners, scene, segments=5))
        assert figure.numbers[f"fg_ari{ending}"] == pytest.approx(scores.fg_ari.mean)
        assert figure.numbers[f"miou{ending}"] == pytest.approx(scores.miou.mean)
    first = np.asarray(panel(to_bytes(scene.images[0] / 255), 128))
    np.testing.assert_array_equal(pixels(figure)[4 : 4 + 128, 4 : 4 + first.shape[1]], first)
    last = np.asarray(panel(owner_colours(looked.owners[0].numpy()), 128))
    left = 4 + first.shape[1] + 4
    np.testing.assert_array_equal(pixels(figure)[154 : 154 + 128, left : left + first.shape[1]], last)
    assert figure.image.size == (4 + 5 * (first.shape[1] + 4), 4 + 2 * (128 + 18 + 4)), "two rows of at most five"


def test_a_scene_without_masks_has_no_figure_6(small_config: Config, small_data: Data) -> None:
    config = small_config()
    bare = Scenes(small_data(config).test.images[:1])
    with pytest.raises(FigureError, match="no masks"):
        from_nothing(make_model(config), bare)


def test_each_step_has_a_row(small_config: Config, small_data: Data) -> None:
    config = small_config()
    model, image = make_model(config), small_data(config).test.images[0]
    figure = single_steps(model, image)
    output, errors = reconstruct(model, image[None])
    assert figure.numbers["energy_2"] == pytest.approx(float(output.steps[1].write.square().sum()))
    assert figure.numbers["mse_3"] == pytest.approx(float(errors[3, 0]))
    assert figure.image.height == 18 + 4 + 3 * (128 + 4)
    owners = _looked(model, image[None], output)[0]
    assert [figure.numbers[f"pixels_{t}"] for t in (1, 2, 3)] == [(owners == t).sum() for t in (1, 2, 3)]
    assert owners.any(), "a figure of no segments would show nothing"
    width = panel(to_bytes(image / 255), 128).width
    for t in (1, 2, 3):
        top, left = 22 + (t - 1) * 132, -4 - width - 4 - width
        shown = pixels(figure)[top : top + 128, left : left + width]
        alone = np.asarray(panel(owner_colours(np.where(owners == t, owners, np.uint8(0))), 128))
        np.testing.assert_array_equal(shown, alone)


def test_background_comes_first_and_the_image_last(small_config: Config, small_data: Data) -> None:
    config = small_config(model={"background": {"bottleneck": 4}, "channels": 3})
    model, images = make_model(config), small_data(config).train.images[:2]
    figure = from_background(model, images)
    _, errors = reconstruct(model, images)
    assert figure.numbers["mse_0"] == pytest.approx(errors[0].mean())
    assert figure.numbers["of_background"] == pytest.approx(errors[3].mean() / errors[0].mean())
    width = panel(to_bytes(images[0] / 255), 128).width
    last = pixels(figure)[22 : 22 + 128, -4 - width : -4]
    np.testing.assert_array_equal(last, np.asarray(panel(to_bytes(images[0] / 255), 128)))
    output, _ = reconstruct(model, images)
    before = pixels(figure)[22 : 22 + 128, -8 - 2 * width : -8 - width]
    segments = owner_colours(_looked(model, images, output)[0])
    np.testing.assert_array_equal(before, np.asarray(panel(segments, 128)))


def test_without_a_background_network_there_is_no_figure_10(small_config: Config, small_data: Data) -> None:
    config = small_config()
    with pytest.raises(FigureError, match="background"):
        from_background(make_model(config), small_data(config).train.images[:2])


def test_a_model_in_training_is_looked_at_in_evaluation_mode(small_config: Config, small_data: Data) -> None:
    config = small_config(model={"coder": {"kind": "variational", "bottleneck": 16}})
    model, images = make_model(config).train(), small_data(config).test.images[:2]
    np.testing.assert_array_equal(reconstruct(model, images)[1], reconstruct(model, images)[1])
