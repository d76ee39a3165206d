import numpy as np
import pytest

from seqae.data.scenes import Scenes
from seqae.evaluation import baseline
from seqae.evaluation.baseline import connected_components
from tests.unit.seqae.evaluation.scenes import squares


def test_connected_components_solve_scenes_whose_objects_do_not_touch() -> None:
    found = connected_components(squares(1))
    assert (found.fg_ari.mean, found.miou.mean, found.count_accuracy_owned.mean) == (1, 1, 1)
    touching = connected_components(squares(2))
    assert (touching.fg_ari.mean, touching.miou.mean, touching.count_accuracy_owned.mean) == (0, 0.25, 0)


def test_pixels_that_touch_at_a_corner_are_connected() -> None:
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[0, :4, :4] = mask[0, 4:, 4:] = 1
    images = np.where(mask > 0, 255, 0).astype(np.uint8)[:, None]
    found = connected_components(Scenes(images, mask, np.zeros((1, 8, 8), np.bool_), counts=np.array([1])))
    assert (found.miou.mean, found.count_accuracy_owned.mean) == (1, 1)


def test_connected_components_on_digits_are_good_but_not_perfect(
    digit_scenes: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = connected_components(digit_scenes)
    assert 0.8 < whole.fg_ari.mean < 1
    assert 0.5 < whole.count_accuracy_owned.mean < 1
    monkeypatch.setattr(baseline, "_CHUNK", 7)
    assert connected_components(digit_scenes) == whole


def test_images_without_masks_are_an_error() -> None:
    with pytest.raises(ValueError, match="no masks"):
        connected_components(Scenes(np.zeros((1, 1, 8, 8), np.uint8)))
