import numpy as np
import pytest
from numpy.typing import NDArray

from seqae.data.scenes import Scenes
from seqae.evaluation import baselines
from seqae.evaluation.baselines import (
    Baseline,
    blocks,
    border_colours,
    connected_components,
    find_foreground,
    kmeans,
    partition,
    score_segments,
    slic,
)
from seqae.evaluation.scores import OwnerScores
from seqae.segmentation.ownership import FOREGROUND_LEVEL
from tests.unit.seqae.evaluation.scenes import masks_of, squares


def _components(scenes: Scenes) -> OwnerScores:
    return score_segments(connected_components(scenes.images), scenes)


def _on(colour: int, ink: int) -> Scenes:
    """Two squares of one grey before another; neither touches the border."""
    mask = np.zeros((1, 16, 16), np.uint8)
    mask[0, 2:6, 2:6], mask[0, 9:13, 8:12] = 1, 2
    images = np.where(mask > 0, ink, colour).astype(np.uint8)[:, None]
    return Scenes(images, mask, np.zeros(mask.shape, np.bool_), counts=np.array([2]))


def _halves() -> NDArray[np.uint8]:
    """One image [1, 3, 12, 12], red on the left and blue on the right."""
    image = np.zeros((1, 3, 12, 12), np.uint8)
    image[0, 0, :, :6], image[0, 2, :, 6:] = 255, 255
    return image


def test_connected_components_solve_scenes_whose_objects_do_not_touch() -> None:
    found = _components(squares(1))
    assert (found.fg_ari.mean, found.miou.mean, found.count_accuracy_owned.mean) == (1, 1, 1)
    touching = _components(squares(2))
    assert (touching.fg_ari.mean, touching.miou.mean, touching.count_accuracy_owned.mean) == (0, 0.25, 0)


def test_pixels_that_touch_at_a_corner_are_connected() -> None:
    mask = np.zeros((1, 10, 10), np.uint8)
    mask[0, 1:5, 1:5] = mask[0, 5:9, 5:9] = 1
    images = np.where(mask > 0, 255, 0).astype(np.uint8)[:, None]
    found = _components(Scenes(images, mask, np.zeros(mask.shape, np.bool_), counts=np.array([1])))
    assert (found.miou.mean, found.count_accuracy_owned.mean) == (1, 1)


@pytest.mark.parametrize(("colour", "ink"), [(0, 255), (255, 0), (120, 160), (120, 88)])
def test_foreground_is_what_differs_from_the_border_whichever_is_brighter(colour: int, ink: int) -> None:
    scenes = _on(colour, ink)
    assert border_colours(scenes.images).tolist() == [[[[colour]]]]
    assert (find_foreground(scenes.images) == (masks_of(scenes) > 0)).all()
    found = _components(scenes)
    assert (found.miou.mean, found.count_accuracy_owned.mean) == (1, 1)


def test_a_difference_below_that_of_a_models_foreground_does_not_count() -> None:
    assert round(FOREGROUND_LEVEL * 255 + 0.5) == 32
    assert not find_foreground(_on(100, 131).images).any()
    assert find_foreground(_on(100, 132).images).any()


def test_a_texture_is_told_from_objects_where_it_is_known() -> None:
    scenes = _on(0, 255)
    texture = np.random.default_rng(0).integers(0, 255, scenes.images.shape, np.uint8)
    images = np.where(masks_of(scenes)[:, None] > 0, texture ^ 128, texture).astype(np.uint8)
    assert (find_foreground(images, texture) == (masks_of(scenes) > 0)).all()
    assert find_foreground(images).mean() > 0.5  # no single colour is this background


def test_connected_components_on_digits_are_good_but_not_perfect(
    digit_scenes: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _components(digit_scenes)
    assert 0.8 < whole.fg_ari.mean < 1
    assert 0.5 < whole.count_accuracy_owned.mean < 1
    monkeypatch.setattr(baselines, "_CHUNK", 7)
    assert _components(digit_scenes) == whole


def test_blocks_are_equal_rectangles() -> None:
    owners = blocks(np.zeros((2, 1, 6, 9), np.uint8))
    assert owners.shape == (2, 6, 9)
    assert owners[1, ::3, ::3].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert np.bincount(owners.ravel()).tolist() == [0, 18, 18, 18, 18, 18, 18]
    assert np.bincount(blocks(np.zeros((1, 1, 7, 7), np.uint8)).ravel())[1:].min() > 0


def test_kmeans_tells_colours_apart_and_places_where_there_is_one_colour() -> None:
    owners = kmeans(_halves(), 2)[0]
    assert (owners[:, :6] == owners[0, 0]).all()
    assert (owners[:, 6:] == 3 - owners[0, 0]).all()
    one_colour = kmeans(np.zeros((1, 1, 8, 16), np.uint8), 2)[0]
    assert (one_colour[:, :7] == one_colour[0, 0]).all()
    assert (one_colour[:, 9:] == 3 - one_colour[0, 0]).all()


def test_kmeans_of_the_foreground_leaves_the_rest_to_nobody() -> None:
    scenes = _on(0, 255)
    owners = kmeans(scenes.images, 2, find_foreground(scenes.images))
    found = score_segments(owners, scenes)
    assert (found.fg_ari.mean, found.miou.mean, found.count_accuracy_owned.mean) == (1, 1, 1)
    dark = np.zeros((1, 1, 8, 8), np.uint8)
    assert not kmeans(dark, 3, find_foreground(dark)).any()
    dot = dark.copy()
    dot[0, 0, 4, 4] = 255
    assert kmeans(dot, 3, find_foreground(dot)).sum() == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_superpixels_keep_to_the_edges_of_colours(channels: int) -> None:
    image = _halves()[:, :channels]
    owners = slic(image, 4)[0]
    assert owners.min() == 1
    assert not set(np.unique(owners[:, :6])) & set(np.unique(owners[:, 6:]))


@pytest.mark.parametrize("baseline", Baseline)
def test_each_baseline_gives_every_pixel_of_a_photo_an_owner(baseline: Baseline) -> None:
    ramp = np.linspace(0, 255, 20 * 16).reshape(20, 16).astype(np.uint8)
    images = np.stack([ramp, ramp[::-1], 255 - ramp])[None].repeat(2, axis=0)
    owners = partition(baseline, images, 6)
    assert owners.shape == (2, 20, 16)
    assert owners.min() == 1
    assert 2 <= owners.max() <= 9


def test_a_perfect_mask_scores_one(overlapping_scenes: Scenes) -> None:
    found = score_segments(masks_of(overlapping_scenes), overlapping_scenes)
    assert {score.mean for name, score in found.named().items() if name != "miou_whole"} == {1}
    assert found.fg_ari.standard_error == 0


def test_no_segment_at_all_scores_nothing(overlapping_scenes: Scenes) -> None:
    for scenes in (overlapping_scenes, squares(3)):
        found = score_segments(np.zeros(masks_of(scenes).shape, np.int32), scenes)
        assert (found.fg_ari.mean, found.miou.mean, found.mbo.mean, found.count_accuracy_owned.mean) == (0, 0, 0, 0)
        assert found.miou_whole is not None
        assert found.miou_whole.mean == 0


def test_images_without_masks_are_an_error() -> None:
    with pytest.raises(ValueError, match="no masks"):
        _components(Scenes(np.zeros((1, 1, 8, 8), np.uint8)))


def test_owners_of_other_images_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 images' owners and 1 images"):
        score_segments(np.zeros((2, 8, 16), np.int32), squares(1))
