import numpy as np
import pytest

from seqae.data.scenes import Scenes


def scene(*rows: str, overlap: tuple[int, int] | None = None) -> Scenes:
    """One image, each pixel with the number of its object."""
    masks = np.array([[[int(pixel) for pixel in row] for row in rows]], np.uint8)
    several = np.zeros(masks.shape, np.bool_)
    if overlap is not None:
        several[0][overlap] = True
    return Scenes(np.zeros((1, 1, *masks.shape[1:]), np.uint8), masks, several, counts=np.array([2]))


@pytest.mark.parametrize(
    "rows",
    [("0120", "0000"), ("0100", "0200"), ("0100", "0020"), ("0020", "0100"), ("0001", "0020"), ("1000", "0200")],
)
def test_neighbours_touch_corners_counted(rows: tuple[str, str]) -> None:
    assert scene(*rows).touching().tolist() == [True]


@pytest.mark.parametrize(
    "rows", [("1020", "1020"), ("1000", "0020"), ("1110", "1110"), ("1002", "1002"), ("100", "002")]
)
def test_objects_with_a_pixel_between_them_do_not(rows: tuple[str, str]) -> None:
    assert scene(*rows).touching().tolist() == [False], "the last column and the first one are no neighbours"


def test_pixels_of_two_objects_touch() -> None:
    assert scene("1110", overlap=(0, 1)).touching().tolist() == [True]
    assert scene("1110", overlap=(0, 3)).touching().tolist() == [False], "a crowd beside the object"


def test_images_without_masks_can_not_tell() -> None:
    with pytest.raises(ValueError, match="no masks"):
        Scenes(np.zeros((1, 1, 2, 2), np.uint8)).touching()


def test_small_objects_are_left_out_and_their_pixels_are_nobodys() -> None:
    scenes = scene("1112", "1112", "1110", "0000")  # 9 and 2 of 16 pixels
    kept = scenes.without_small(2 / 16)
    assert (kept.counts.tolist() if kept.counts is not None else None) == [2], "as large as asked for"
    fewer = scenes.without_small(0.13)
    assert fewer.masks is not None
    assert fewer.overlap is not None
    assert fewer.counts is not None
    assert fewer.counts.tolist() == [1]
    assert fewer.masks[0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert np.argwhere(fewer.overlap[0]).tolist() == [[0, 3], [1, 3]]
    assert scenes.masks is not None
    assert scenes.masks[0, 0, 3] == 2, "the given scenes are not changed"


def test_an_object_that_is_hidden_whole_is_small() -> None:
    kept = scene("22", "22").without_small(0.01)
    assert kept.counts is not None
    assert kept.counts.tolist() == [1]


def test_sizes_of_objects_need_masks() -> None:
    with pytest.raises(ValueError, match="no masks"):
        Scenes(np.zeros((1, 1, 2, 2), np.uint8)).without_small(0.01)
