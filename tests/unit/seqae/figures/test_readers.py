"""Figure 4."""

import numpy as np
import pytest
import torch

from seqae.attention import make_filters
from seqae.figures.readers import SETTINGS, density, readers, whole_window
from tests.unit.seqae.figures.helpers import pixels


def test_kernels_of_a_reader_cover_the_image_around_its_middle() -> None:
    window = whole_window(48, 64, 21, 0.1)
    assert (float(window.x), float(window.y)) == (31.5, 23.5)
    assert 21 * float(window.delta) == pytest.approx(64)
    assert float(window.sigma) == pytest.approx(3.2), "0.1 of half of 64"


def test_density_is_the_sum_of_all_kernels() -> None:
    filters = make_filters(whole_window(10, 12, 8, 0.1), 8, 10, 12)
    total = density(filters)
    assert total.shape == (1, 10, 12)
    by_hand = torch.einsum("jb,ia->ba", filters.y[0], filters.x[0]).numpy()
    np.testing.assert_allclose(total[0], by_hand, rtol=1e-5)
    assert total.sum() == pytest.approx(8 * 8), "the weights of each kernel sum to 1"


def test_wide_kernels_blur_and_narrow_ones_leave_a_comb() -> None:
    image = np.zeros((1, 64, 64), np.uint8)
    image[:, 20:40, 28:36] = 255
    figure = readers(image)
    numbers = figure.numbers
    assert len(SETTINGS) == 4
    for n in (21, 42):
        assert numbers[f"ripple_n{n}_sigma0.1"] < 0.01
        assert numbers[f"ripple_n{n}_sigma0.01"] > 0.5
        assert numbers[f"contrast_n{n}_sigma0.1"] < 0.8 * numbers[f"contrast_n{n}_sigma0.01"]
    # The first column is the original, in each of four rows.
    white = (pixels(figure)[:, : figure.image.width // 4] == 255).all(axis=2)
    assert white.any(axis=1).sum() >= 4 * 20
