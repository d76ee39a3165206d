"""Random numbers of images: the same whoever draws them, and as random as they should be."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from seqae.optimization.random_numbers import normals, uniforms

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [1, 3, 8, 9, 40])
def test_an_image_has_the_same_numbers_in_any_share(count: int) -> None:
    whole = uniforms(5, 100, range(25), count, CPU)
    for cut in (1, 8, 17):
        parts = [uniforms(5, 100, rows, count, CPU) for rows in (range(cut), range(cut, 25))]
        assert torch.equal(torch.cat(parts), whole)
    assert len({tuple(row) for row in whole.tolist()}) == 25


def test_the_numbers_are_philoxs() -> None:
    """Those of numpy's generator with the same key; so a stored curve can be made again elsewhere."""
    philox = np.random.Generator(np.random.Philox(key=np.array([5, 100], np.uint64)))
    expected = philox.random((2, 8), np.float32)
    assert uniforms(5, 100, range(2), 3, CPU).tolist() == expected[:, :3].tolist()


def test_seeds_and_iterations_differ() -> None:
    first: list[float] = [float(uniforms(seed, at, range(1), 1, CPU)) for seed in range(20) for at in range(20)]
    assert len(set(first)) > 395


def test_the_largest_seed_and_iteration_are_taken() -> None:
    assert uniforms(2**31 - 1, 2**31 - 1, range(65_535, 65_536), 3, CPU).shape == (1, 3)


def moments(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std())


def test_numbers_are_uniform_and_independent_over_images_and_iterations() -> None:
    numbers = torch.stack([uniforms(0, at, range(100), 4, CPU) for at in range(100)]).double()
    mean, deviation = moments(numbers)
    count = numbers.numel()
    assert abs(mean - 0.5) < 4 * math.sqrt(1 / 12 / count)
    assert deviation == pytest.approx(math.sqrt(1 / 12), rel=0.02)
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    for first, second in (
        (numbers[1:], numbers[:-1]),  # iterations
        (numbers[:, 1:], numbers[:, :-1]),  # images
        (numbers[:, :, 1:], numbers[:, :, :-1]),  # numbers of one image
    ):
        pairs = torch.stack((first.flatten(), second.flatten()))
        assert abs(float(torch.corrcoef(pairs)[0, 1])) < 4 / math.sqrt(pairs.shape[1])


def test_normal_numbers_are_normal() -> None:
    values = normals(uniforms(3, 0, range(2000), 10, CPU))
    assert values.shape == (2000, 10)
    mean, deviation = moments(values)
    assert abs(mean) < 4 / math.sqrt(values.numel())
    assert deviation == pytest.approx(1, rel=0.02)
    for bound, share in ((1.0, 0.6827), (2.0, 0.9545)):
        assert float((values.abs() < bound).float().mean()) == pytest.approx(share, abs=0.01)
    extremes = normals(torch.tensor([[0.0, 0.5], [1 - 2**-24, 0.0]]))
    assert torch.isfinite(extremes).all()
    assert float(extremes.abs().max()) < 5.8
