import numpy as np

from seqae.figures.layout import grid, heat, signed
from seqae.rendering.panels import panel


def test_below_zero_is_blue_in_grey_patches() -> None:
    shown = signed(np.array([[[1.0, 0.0, -1.0, 0.5]]]))
    assert shown[0].tolist() == [[255, 255, 255], [0, 0, 0], [0, 115, 255], [128, 128, 128]]


def test_colour_patches_are_clipped() -> None:
    assert signed(np.array([[[2.0]], [[-1.0]], [[0.2]]])).tolist() == [[[255, 0, 51]]]


def test_heat_is_brightest_at_the_largest_weight_and_bears_no_weight_at_all() -> None:
    shown = heat(np.array([[0.0, 1.0, 2.0]])).astype(int).sum(axis=2)[0]
    assert shown[0] < shown[1] < shown[2]
    assert (heat(np.zeros((2, 2))) == heat(np.zeros((2, 2)))[0, 0]).all()


def test_panels_of_a_grid_keep_their_rows_and_columns() -> None:
    reds = [
        [panel(np.full((4, 4, 1), 10 * (3 * row + column + 1), np.uint8), 8) for column in range(3)] for row in range(2)
    ]
    sheet = np.asarray(grid([reds[0], reds[1][:2]], ("a", "b", "c"), labels=("one", "two\nlines")))
    for row, column in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)):
        value = 10 * (3 * row + column + 1)
        rows, columns = np.nonzero((sheet == value).all(axis=2))
        assert (int(np.ptp(rows)), int(np.ptp(columns))) == (7, 7), "enlarged without smoothing"
    assert not (sheet == 60).all(axis=2).any()
