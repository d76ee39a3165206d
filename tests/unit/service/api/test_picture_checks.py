"""What is said of a reconstruction besides itself."""

import json

import numpy as np
import pytest

from seqae.config import TrainConfig
from seqae.reconstruction import Reconstruction
from service.api.picture_checks import check, inverted, warnings_header
from service.schemas.models import Invert

SCENES = TrainConfig()
IMAGES = TrainConfig.model_validate({"data": {"kind": "images", "path": "photos"}})
SIZE = (64, 64)


def reconstruction(pixels: np.ndarray, share: float) -> Reconstruction:
    """One that leaves a share of the error of an empty canvas."""
    empty = float(np.square(pixels / 255).mean())
    return Reconstruction(pixels, pixels[None], (), (empty, empty * share), pixels[:, :, 0])


def scene() -> np.ndarray:
    pixels = np.zeros((64, 64, 1), np.uint8)
    pixels[20:40, 25:35] = 255
    return pixels


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 1), np.uint8)


def said(pixels: np.ndarray, config: TrainConfig = SCENES, share: float = 0.1, size: tuple[int, int] = SIZE) -> str:
    return "; ".join(check(reconstruction(pixels, share), size, config, was_inverted=False).warnings)


def test_a_usual_scene_has_no_warning() -> None:
    found = check(reconstruction(scene(), 0.1), SIZE, SCENES, was_inverted=False)
    assert found.explained == pytest.approx(0.9)
    assert found.warnings == ()
    assert warnings_header(found.warnings) == {}


@pytest.mark.parametrize(("share", "warned"), [(0.1, False), (0.49, False), (0.51, True), (1.0, True), (2.0, True)])
def test_little_explained_is_said(share: float, warned: bool) -> None:
    assert ("was explained" in said(scene(), share=share)) == warned
    assert ("was explained" in said(noise(), IMAGES, share)) == warned


def test_noise_and_photos_look_unlike_digits() -> None:
    """F10: even if the model rebuilds them in some way."""
    dark_border = noise()
    dark_border[:3] = dark_border[-3:] = dark_border[:, :3] = dark_border[:, -3:] = 0
    assert "unlike the training data" in said(dark_border)
    assert said(noise()) != ""
    assert said(dark_border, IMAGES) == ""


def test_a_bright_background_is_said_once_it_is_not_inverted() -> None:
    negative = 255 - scene()
    assert "background is bright" in said(negative)
    assert "background is bright" not in said(negative, IMAGES)
    assert "invert=auto" not in " ".join(check(reconstruction(negative, 0.1), SIZE, SCENES, was_inverted=True).warnings)


@pytest.mark.parametrize(
    ("invert", "config", "of_negative", "of_scene"),
    [
        (Invert.FALSE, SCENES, False, False),
        (Invert.TRUE, SCENES, True, True),
        (Invert.AUTO, SCENES, True, False),
        (Invert.AUTO, IMAGES, False, False),
    ],
)
def test_which_pictures_are_inverted(invert: Invert, config: TrainConfig, of_negative: bool, of_scene: bool) -> None:
    for pixels, expected in ((255 - scene(), of_negative), (scene(), of_scene)):
        found, was_inverted = inverted(pixels, config, invert)
        assert was_inverted == expected
        np.testing.assert_array_equal(found, 255 - pixels if expected else pixels)


def test_the_header_is_ascii() -> None:
    header = warnings_header(("grün", "a\nb"))["Seqae-Warnings"]
    assert header.isascii()
    assert "\n" not in header
    assert json.loads(header) == ["grün", "a\nb"]


def test_a_model_of_textured_scenes_expects_no_black_background() -> None:
    textured = TrainConfig.model_validate({"data": {"background": "texture"}})
    negative = 255 - scene()
    assert inverted(negative, SCENES, Invert.AUTO)[1]
    assert not inverted(negative, textured, Invert.AUTO)[1]
    assert said(negative, textured) == ""
