"""Eq. 7-12 against a plain loop, and what must hold for any input."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from seqae.attention import Filters, Window, make_filters, read, window_box, write

Array = NDArray[np.float64]

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
LARGEST = float(np.finfo(np.float32).max)


def window(*values: float, dtype: torch.dtype = torch.float32) -> Window:
    """x, y, delta, sigma, gamma of one image."""
    return Window(*(torch.tensor([value], dtype=dtype) for value in values))


def kernels_by_loop(centre: float, delta: float, sigma: float, n: int, pixels: int) -> Array:
    """F_x or F_y, [n, pixels]: Eq. 7 and 9, or 8 and 10, as printed."""
    kernels = np.zeros((n, pixels))
    for i in range(1, n + 1):
        mu = centre + (i - n / 2 - 0.5) * delta
        values = [math.exp(-((a - mu) ** 2) / (2 * sigma**2)) for a in range(pixels)]
        for a in range(pixels):
            kernels[i - 1, a] = values[a] / sum(values)
    return kernels


def read_by_loop(image: Array, f_x: Array, f_y: Array, gamma: float) -> Array:
    """Eq. 11 for one channel, [H, W] -> [N, N]; row j of the patch is y, column i is x."""
    n, (height, width) = len(f_x), image.shape
    patch = np.zeros((n, n))
    for j in range(n):
        for i in range(n):
            for b in range(height):
                for a in range(width):
                    patch[j, i] += gamma * f_x[i, a] * f_y[j, b] * image[b, a]
    return patch


def write_by_loop(patch: Array, f_x: Array, f_y: Array, gamma: float) -> Array:
    """Eq. 12 for one channel, [N, N] -> [H, W].

    As printed it sums over pixels, which is the read again; a write gives a value for each pixel, so it sums over the
    grid.
    """
    n, height, width = len(patch), f_y.shape[1], f_x.shape[1]
    image = np.zeros((height, width))
    for b in range(height):
        for a in range(width):
            for j in range(n):
                for i in range(n):
                    image[b, a] += 1 / gamma * f_x[i, a] * f_y[j, b] * patch[j, i]
    return image


CASES = [
    # x, y, delta, sigma, gamma, N, H, W
    (6.3, 4.1, 0.9, 0.6, 1.7, 8, 9, 13),
    (2.0, 9.5, 1.3, 0.5, 0.4, 9, 14, 8),
    (12.0, 0.0, 0.5, 1.5, 1.0, 8, 8, 13),  # a corner: half of the grid is off the image
]


@pytest.mark.parametrize("case", CASES)
def test_equals_a_plain_loop_over_the_equations(case: Sequence[float]) -> None:
    *numbers, n, height, width = case
    x, y, delta, sigma, gamma = numbers
    kernels = int(n)
    rng = np.random.default_rng(0)
    image, patch = rng.uniform(0, 1, (2, int(height), int(width))), rng.uniform(0, 1, (2, kernels, kernels))
    f_x = kernels_by_loop(x, delta, sigma, kernels, int(width))
    f_y = kernels_by_loop(y, delta, sigma, kernels, int(height))

    filters = make_filters(window(*numbers), kernels, int(height), int(width))
    got_read = read(torch.from_numpy(image)[None].float(), filters)[0].numpy()
    got_write = write(torch.from_numpy(patch)[None].float(), filters)[0].numpy()

    np.testing.assert_allclose(filters.x[0], f_x, atol=1e-5)
    np.testing.assert_allclose(filters.y[0], f_y, atol=1e-5)
    # Channel by channel with the same kernels: what the paper does with colour.
    for channel in range(2):
        np.testing.assert_allclose(got_read[channel], read_by_loop(image[channel], f_x, f_y, gamma), atol=1e-5)
        np.testing.assert_allclose(got_write[channel], write_by_loop(patch[channel], f_x, f_y, gamma), atol=1e-5)


def test_each_image_of_a_batch_has_its_own_window() -> None:
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(2, 1, 10, 12, generator=rng)
    both = Window(*(torch.tensor(pair) for pair in ((3.0, 8.0), (4.0, 6.0), (1.0, 0.5), (0.5, 0.8), (1.0, 2.0))))
    filters = make_filters(both, 8, 10, 12)
    for at in range(2):
        alone = make_filters(Window(*(value[at : at + 1] for value in both)), 8, 10, 12)
        patch = read(image[at : at + 1], alone)
        torch.testing.assert_close(read(image, filters)[at : at + 1], patch)
        torch.testing.assert_close(write(read(image, filters), filters)[at : at + 1], write(patch, alone))


@pytest.mark.parametrize("n", [8, 9, 25])
def test_the_grid_is_centred_on_g_in_x_and_in_y(n: int) -> None:
    """i runs from 1 in Eq. 7 and 8; from 0 the grid would be off by one stride."""
    height, width = 60, 90
    filters = make_filters(window(41.25, 27.5, 1.1, 0.7, 1.0), n, height, width)
    means_x = filters.x[0] @ torch.arange(width, dtype=torch.float32)
    means_y = filters.y[0] @ torch.arange(height, dtype=torch.float32)
    assert float(means_x.mean()) == pytest.approx(41.25, abs=1e-3)
    assert float(means_y.mean()) == pytest.approx(27.5, abs=1e-3)
    torch.testing.assert_close(means_x.diff(), torch.full((n - 1,), 1.1), atol=1e-3, rtol=0)
    torch.testing.assert_close(means_y.diff(), torch.full((n - 1,), 1.1), atol=1e-3, rtol=0)


@given(
    x=st.floats(0, 29, width=32),
    y=st.floats(0, 17, width=32),
    delta=st.floats(0.25, 3, width=32),
    share=st.floats(0.25, 2, width=32),
)
@settings(deadline=None, max_examples=50)
def test_kernels_sum_to_one_wherever_the_window_is(x: float, y: float, delta: float, share: float) -> None:
    filters = make_filters(window(x, y, delta, share * delta, 1.0), 12, 18, 30)
    assert filters.x.shape == (1, 12, 30)
    assert filters.y.shape == (1, 12, 18)
    torch.testing.assert_close(filters.x.sum(dim=2), torch.ones(1, 12))
    torch.testing.assert_close(filters.y.sum(dim=2), torch.ones(1, 12))


def test_x_and_y_are_not_mixed_up() -> None:
    """A dot on a non-square image is read at its own row and column of the patch, and written back where it was."""
    image = torch.zeros(1, 1, 20, 40)
    image[0, 0, 6, 30] = 1  # two pixels above and three right of the centre of the window
    filters = make_filters(window(27.0, 8.0, 1.0, 0.3, 1.0), 11, 20, 40)
    patch = read(image, filters)
    assert divmod(int(patch[0, 0].argmax()), 11) == (5 - 2, 5 + 3)
    assert divmod(int(write(patch, filters)[0, 0].argmax()), 40) == (6, 30)


def smooth(height: int, width: int) -> Tensor:
    rows, columns = torch.arange(height)[:, None] / height, torch.arange(width)[None] / width
    return (0.5 + 0.3 * torch.sin(2 * rows + 1) + 0.2 * torch.cos(3 * columns))[None, None]


@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_write_of_a_read_returns_the_image_over_delta_squared(delta: float, gamma: float) -> None:
    """Inside the window, whatever gamma is; the write of unit gain returns the image itself."""
    image = smooth(64, 80)
    filters = make_filters(window(40.0, 30.0, delta, 0.7 * delta, gamma), 25, 64, 80)
    patch = read(image, filters)
    reach = int(delta * 6)
    middle = (..., slice(30 - reach, 31 + reach), slice(40 - reach, 41 + reach))
    torch.testing.assert_close(write(patch, filters)[middle] * delta**2, image[middle], rtol=0.01, atol=0)
    torch.testing.assert_close(write(patch, filters, "unit")[middle], image[middle], rtol=0.01, atol=0)


def test_gamma_multiplies_reads_and_divides_writes() -> None:
    image, patch = torch.rand(1, 1, 12, 12), torch.rand(1, 1, 8, 8)
    one = make_filters(window(5.0, 6.0, 1.0, 0.6, 1.0), 8, 12, 12)
    four = make_filters(window(5.0, 6.0, 1.0, 0.6, 4.0), 8, 12, 12)
    torch.testing.assert_close(read(image, four), 4 * read(image, one))
    torch.testing.assert_close(write(patch, four), write(patch, one) / 4)
    torch.testing.assert_close(read(image, four, with_gamma=False), read(image, one))


def test_reads_and_writes_are_linear_below_zero_too() -> None:
    """An error image is below 0 where the canvas is too bright."""
    image, patch = torch.rand(1, 1, 12, 12), 50 * torch.rand(1, 1, 8, 8)
    filters = make_filters(window(5.0, 6.0, 1.0, 0.6, 1.0), 8, 12, 12)
    torch.testing.assert_close(read(-50 * image, filters), -50 * read(image, filters))
    torch.testing.assert_close(write(-patch, filters), -write(patch, filters))


def test_the_centre_is_kept_on_the_image() -> None:
    for off, on in (((1e6, -1e6), (19.0, 0.0)), ((-0.5, 11.5), (0.0, 11.0)), ((19.5, 11.5), (19.0, 11.0))):
        kept = make_filters(window(*off, 1.0, 0.7, 1.0), 8, 12, 20)
        expected = make_filters(window(*on, 1.0, 0.7, 1.0), 8, 12, 20)
        torch.testing.assert_close(kept, expected)


def test_box_is_what_the_kernels_tile() -> None:
    """N strides wide, centred on g: left, top, right, bottom."""
    box = window_box(window(10.0, 20.0, 1.5, 0.5, 1.0), 8)
    torch.testing.assert_close(box, torch.tensor([[4.0, 14.0, 16.0, 26.0]]))


@pytest.mark.parametrize("gain", ["paper", "unit"])
def test_gradients_are_those_of_the_function(gain: str) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 2, 9, 11, dtype=torch.float64, requires_grad=True)
    parameters = [value.requires_grad_() for value in window(4.7, 3.2, 0.9, 0.8, 1.3, dtype=torch.float64)]

    def read_and_write(image: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        filters = make_filters(Window(*values), 8, 9, 11)
        patch = read(image, filters)
        return patch, write(patch.square(), filters, "paper" if gain == "paper" else "unit")

    assert torch.autograd.gradcheck(read_and_write, (image, *parameters))


def all_finite(*tensors: Tensor | None) -> bool:
    return all(tensor is not None and bool(tensor.isfinite().all()) for tensor in tensors)


@given(
    numbers=st.tuples(*[FINITE] * 5),
    values=st.lists(FINITE, min_size=4, max_size=4),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    gain=st.sampled_from(["paper", "unit"]),
)
@settings(deadline=None, max_examples=150)
def test_no_finite_input_gives_nan_or_infinity(
    numbers: tuple[float, ...], values: list[float], size: tuple[int, int], gain: str
) -> None:
    image = torch.tensor(values).repeat(size[0] * size[1])[: size[0] * size[1]].reshape(1, 1, *size).requires_grad_()
    patch = torch.tensor(values).repeat(16).reshape(1, 1, 8, 8).requires_grad_()
    parameters = [value.requires_grad_() for value in window(*numbers)]
    filters: Filters = make_filters(Window(*parameters), 8, *size)
    seen = read(image, filters)
    written = write(patch, filters, "paper" if gain == "paper" else "unit")
    assert all_finite(*filters, seen, written)
    torch.autograd.backward(seen.sum() + written.sum())
    assert all_finite(image.grad, patch.grad, *(value.grad for value in parameters))


@pytest.mark.parametrize("numbers", [(LARGEST, -LARGEST, LARGEST, 0.0, 0.0), (0.0, LARGEST, 0.0, LARGEST, -LARGEST)])
def test_the_largest_numbers_there_are(numbers: tuple[float, ...]) -> None:
    image = torch.full((1, 3, 64, 64), LARGEST, requires_grad=True)
    parameters = [value.requires_grad_() for value in window(*numbers)]
    filters = make_filters(Window(*parameters), 25, 64, 64)
    patch = read(image, filters)
    written = write(patch, filters, "unit")
    assert all_finite(patch, written)
    torch.autograd.backward(written.mean())
    assert all_finite(image.grad, *(value.grad for value in parameters))


def test_a_window_off_the_image_still_sees_its_edge() -> None:
    """Z of Eq. 9 would be 0 there; the centre is kept on the image, and no kernel vanishes."""
    image = torch.zeros(1, 1, 16, 16)
    image[..., -1] = 1
    filters = make_filters(window(1e6, 8.0, 0.1, 0.05, 1.0), 8, 16, 16)
    torch.testing.assert_close(read(image, filters), torch.ones(1, 1, 8, 8))


def test_bfloat16_elsewhere_leaves_the_attention_alone() -> None:
    """Its eight bits would make a canvas of many writes drift."""
    image = smooth(20, 24)
    filters = make_filters(window(10.0, 9.0, 1.0, 0.6, 1.3), 9, 20, 24)
    with torch.autocast("cpu", torch.bfloat16):
        patch = read(image, filters)
        written = write(patch, filters)
    torch.testing.assert_close(patch, read(image, filters))
    torch.testing.assert_close(written, write(patch, filters))


def test_the_tails_of_kernels_are_zero_and_get_no_gradient() -> None:
    """What lies below 1e-12 of a kernel's peak: it would be denormal numbers once two of them are multiplied."""
    values = [torch.tensor([value], requires_grad=True) for value in (20.3, 11.8, 1.0, 0.9, 1.0)]
    filters = make_filters(Window(*values), 9, 40, 48)
    for kernels in (filters.x, filters.y):
        peak = kernels.amax(dim=-1, keepdim=True)
        assert bool(((kernels == 0) | (kernels >= 0.99e-12 * peak)).all())
        assert int((kernels == 0).sum()) > kernels.numel() // 3
        assert int(((kernels > 0) & (kernels < 1e-9 * peak)).sum()) > 0, "no more than that is cut"
        torch.testing.assert_close(kernels.sum(dim=-1), torch.ones_like(peak[..., 0]))
    (gradient,) = torch.autograd.grad(filters.x[filters.x == 0].sum(), values[0])
    assert float(gradient) == 0


def test_what_is_negligible_is_zero_and_keeps_its_gradient() -> None:
    """The last layer of a new model writes 0, and would never learn otherwise."""
    filters = make_filters(window(8.0, 8.0, 1.0, 0.5, 1.0), 8, 16, 16)
    patch = torch.full((1, 1, 8, 8), 1e-14, requires_grad=True)
    written = write(patch, filters)
    assert not written.any()
    (gradient,) = torch.autograd.grad(written.sum(), patch)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))
    assert not read(torch.full((1, 1, 16, 16), 1e-14), filters).any()
