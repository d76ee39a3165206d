import numpy as np

from seqae.data.boxes import tight_box


def test_a_box_reaches_from_the_first_to_behind_the_last_pixel() -> None:
    mask = np.zeros((6, 9), np.bool_)
    mask[1, 4] = mask[3, 2] = mask[2, 7] = True
    assert tight_box(mask) == (2, 1, 8, 4)
    assert tight_box(9 * mask.astype(np.uint8)) == (2, 1, 8, 4)


def test_a_single_pixel_has_a_box_of_one_pixel() -> None:
    mask = np.zeros((3, 4), np.bool_)
    mask[2, 3] = True
    assert tight_box(mask) == (3, 2, 4, 3)
