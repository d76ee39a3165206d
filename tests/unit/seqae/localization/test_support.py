"""The connected support of made-up errors, and how well the squares around it are isolated."""

import pytest
import torch
from torch import Tensor

from seqae.localization.support import Square, bounding_square, connected_support, square_isolation


def boxes(*given: tuple[int, int, int, int], height: int = 40, width: int = 56) -> Tensor:
    """One error image [1, H, W] of filled boxes, each as left, top, right, bottom, both ends inside."""
    image = torch.zeros(1, height, width)
    for left, top, right, bottom in given:
        image[:, top : bottom + 1, left : right + 1] = 1
    return image


def at(x: float, y: float) -> tuple[Tensor, Tensor]:
    return torch.tensor([x]), torch.tensor([y])


def one(left: float, top: float, side: float) -> Square:
    """The square with its first pixel there."""
    return Square(torch.tensor([left + (side - 1) / 2]), torch.tensor([top + (side - 1) / 2]), torch.tensor([side]))


def test_the_support_is_the_component_next_to_the_place() -> None:
    error = boxes((5, 6, 14, 20), (30, 6, 33, 9))
    assert connected_support(error, *at(9, 12)).equal(boxes((5, 6, 14, 20)) > 0)
    assert connected_support(error, *at(28, 7)).equal(boxes((30, 6, 33, 9)) > 0), "nearest, though not on it"


def test_it_follows_a_winding_stroke_but_crosses_no_gap() -> None:
    """A stroke around three sides, and a dot in its middle which it does not touch."""
    stroke = ((4, 4, 24, 6), (22, 4, 24, 24), (4, 22, 24, 24))
    error = boxes(*stroke, (10, 12, 13, 16))
    assert connected_support(error, *at(5, 5)).equal(boxes(*stroke) > 0)
    assert connected_support(error, *at(12, 14)).equal(boxes((10, 12, 13, 16)) > 0)


def test_it_never_goes_over_the_edge_into_the_next_row() -> None:
    error = boxes((50, 10, 55, 13), (0, 10, 5, 15))
    assert connected_support(error, *at(54, 11)).equal(boxes((50, 10, 55, 13)) > 0)


def test_diagonal_neighbours_hang_together_and_a_gap_of_a_pixel_parts() -> None:
    error = boxes((4, 4, 5, 5), (6, 6, 7, 7), (9, 6, 12, 9))
    assert connected_support(error, *at(4, 4)).equal(boxes((4, 4, 5, 5), (6, 6, 7, 7)) > 0)


def test_weak_errors_belong_to_nothing() -> None:
    error = boxes((10, 10, 19, 19))
    error[:, 10:20, 20:30] = 0.24
    assert connected_support(error, *at(14, 14)).equal(boxes((10, 10, 19, 19)) > 0)
    error[:, 10:20, 20:30] = 0.26
    assert connected_support(error, *at(14, 14)).equal(boxes((10, 10, 29, 19)) > 0)


def test_each_image_of_a_batch_has_its_own() -> None:
    error = torch.cat((boxes((2, 2, 9, 9)), torch.zeros(1, 40, 56), 1e-3 * boxes((20, 20, 39, 27))))
    found = bounding_square(connected_support(error, torch.full((3,), 30.0), torch.full((3,), 20.0)))
    assert found.x.tolist() == [5.5, 0, 29.5]
    assert found.y.tolist() == [5.5, 0, 23.5]
    assert found.side.tolist() == [8, 0, 20], "the longer side; none where there is no error"


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (9, 2), (33, 21)])
def test_any_size_of_image_will_do(height: int, width: int) -> None:
    error = torch.zeros(1, height, width)
    error[:, -1, -1] = 1
    support = connected_support(error, *at(0, 0))
    assert support.nonzero().tolist() == [[0, height - 1, width - 1]]
    assert bounding_square(support).side.tolist() == [1]


def isolation(error: Tensor, square: Square) -> float:
    return square_isolation(error, square, frame=4, surround_weight=4, size_exponent=1.5).item()


def test_isolation_is_what_is_inside_less_four_times_what_is_around() -> None:
    error = boxes((10, 10, 17, 17))
    assert isolation(error, one(10, 10, 8)) == pytest.approx(64 / 8**1.5)
    assert isolation(error, one(10, 10, 4)) == pytest.approx((16 - 4 * (64 - 16)) / 4**1.5)
    assert isolation(error, one(9.5, 10, 8)) == pytest.approx((60 - 4 * 4) / 8**1.5), "half a column is outside"
    assert isolation(torch.zeros(1, 40, 56), one(0, 0, 0)) == 0


def test_the_square_that_fits_is_the_best_isolated() -> None:
    error = boxes((10, 10, 25, 25), (40, 12, 48, 20))
    fits = isolation(error, one(10, 10, 16))
    for worse in (one(10, 10, 12), one(8, 8, 20), one(14, 10, 16), one(10, 10, 39)):
        assert isolation(error, worse) < fits
