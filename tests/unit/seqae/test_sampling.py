"""Scenes sampled from a variational model."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.errors import SamplingError
from seqae.model import SequentialAutoEncoder
from seqae.sampling import Layouts, Samples, fit_layouts, sample_scenes
from tests.untrained import with_random_writes

Config = Callable[..., TrainConfig]
Data = Callable[[TrainConfig], Dataset]
VARIATIONAL = {"coder": {"kind": "variational", "bottleneck": 6}}


@pytest.fixture
def model(small_config: Config) -> SequentialAutoEncoder:
    torch.manual_seed(0)
    return with_random_writes(SequentialAutoEncoder(small_config(model=VARIATIONAL).model))


@pytest.fixture
def images(small_config: Config, small_data: Data) -> np.ndarray:
    return small_data(small_config()).train.images


def layouts(places: list[list[tuple[float, float]]], steps: int = 3) -> Layouts:
    """Scenes with writes at known places; the rest of each scene's steps is not active."""
    windows = np.zeros((len(places), steps, 5), np.float32)
    windows[..., 2:] = (0.5, 0.3, 1.0)
    active = np.zeros((len(places), steps), np.bool_)
    for scene, inside in enumerate(places):
        for at, place in enumerate(inside):
            # The last steps are the active ones, so that the order must change.
            windows[scene, steps - len(inside) + at, :2] = place
            active[scene, steps - len(inside) + at] = True
    return Layouts(windows, active, np.zeros((len(places), 1, 24, 28), np.float32), np.full(6, 2.0), 0.25 * np.eye(6))


class Codes:
    """In the decoder's place: keeps the codes, and writes a white patch."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def __call__(self, z: Tensor) -> Tensor:
        self.given.append(z)
        return torch.ones(len(z), 1, 10, 10)


def sample(model: SequentialAutoEncoder, given: Layouts, count: int, **options: object) -> tuple[Samples, np.ndarray]:
    """Samples, and the codes [M, K, Z] that were decoded."""
    codes = Codes()
    model.coder.decode = codes  # type: ignore[method-assign]
    made = sample_scenes(model, given, count, **options)  # type: ignore[arg-type]
    return made, torch.stack(codes.given, dim=1).numpy()


def test_active_writes_are_those_that_may_own_pixels(model: SequentialAutoEncoder, images: np.ndarray) -> None:
    fitted = fit_layouts(model, images)
    given = torch.from_numpy(images).float() / 255
    with torch.no_grad():
        output = model.eval()(given)
    energy = torch.stack([step.write.abs().sum(dim=1).square().sum(dim=(1, 2)) for step in output.steps], dim=1)
    expected = (energy / energy.sum(dim=1, keepdim=True).clamp(min=1.0) > 0.02).numpy()
    np.testing.assert_array_equal(fitted.active, expected)
    assert fitted.active.any(axis=1).all()
    np.testing.assert_allclose(fitted.windows[:, 1, 0], output.steps[1].window.x.numpy(), rtol=1e-5)
    codes = torch.stack([step.code for step in output.steps], dim=1).numpy()[expected]
    np.testing.assert_allclose(fitted.code_mean, codes.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(fitted.code_covariance, np.cov(codes.T), atol=1e-4)


def test_a_model_that_writes_nothing_gives_no_layout(model: SequentialAutoEncoder, images: np.ndarray) -> None:
    with torch.no_grad():
        for parameter in model.coder.decoder.parameters():
            parameter.zero_()
    with pytest.raises(SamplingError, match="writes nothing"):
        fit_layouts(model, images)


def test_scenes_have_as_many_writes_as_the_scene_whose_places_they_have(model: SequentialAutoEncoder) -> None:
    made, codes = sample(model, layouts([[(6, 6)], [(6, 6), (20, 16)]]), 40)
    assert set(made.counts) == {1, 2}
    assert made.frames.shape == (40, 3, 1, 24, 28)
    assert codes.shape == (40, 2, 6)
    ones = made.frames[made.counts == 1]
    np.testing.assert_array_equal(ones[:, 1], ones[:, 2])
    twos = made.frames[made.counts == 2]
    assert (np.abs(twos[:, 2] - twos[:, 1]).sum(axis=(1, 2, 3)) > 1).all()
    np.testing.assert_array_equal(made.scenes, made.frames[:, -1])


def test_writes_are_where_training_scenes_have_them(model: SequentialAutoEncoder) -> None:
    made, _ = sample(model, layouts([[(6, 6), (20, 16)]]), 1, shift=0.0)
    first, second = made.frames[0, 1, 0], made.frames[0, 2, 0] - made.frames[0, 1, 0]
    for written, place in ((first, (6, 6)), (second, (20, 16))):
        y, x = np.nonzero(written > 0.5 * written.max())
        assert (x.mean(), y.mean()) == pytest.approx(place, abs=0.5)


def test_a_shift_makes_the_places_new(model: SequentialAutoEncoder) -> None:
    made, _ = sample(model, layouts([[(14, 12)]]), 200, shift=1.5)
    scenes = made.scenes[:, 0]
    columns = (scenes.sum(axis=1) * np.arange(28)).sum(axis=1) / scenes.sum(axis=(1, 2))
    assert columns.mean() == pytest.approx(14, abs=0.4)
    assert columns.std() == pytest.approx(1.5, rel=0.2)


def test_codes_come_from_the_unit_gaussian(model: SequentialAutoEncoder) -> None:
    _, codes = sample(model, layouts([[(14, 12)]]), 2000)
    assert codes.mean(axis=(0, 1)) == pytest.approx(np.zeros(6), abs=0.1)
    np.testing.assert_allclose(np.cov(codes[:, 0].T), np.eye(6), atol=0.12)


def test_fitted_codes_come_from_the_gaussian_of_real_ones(model: SequentialAutoEncoder) -> None:
    _, codes = sample(model, layouts([[(14, 12)]]), 2000, codes="fitted")
    assert codes.mean(axis=(0, 1)) == pytest.approx(np.full(6, 2.0), abs=0.1)
    np.testing.assert_allclose(np.cov(codes[:, 0].T), 0.25 * np.eye(6), atol=0.05)


def test_a_seed_gives_the_same_scenes(model: SequentialAutoEncoder, images: np.ndarray) -> None:
    fitted = fit_layouts(model, images)
    first, again, other = (sample_scenes(model, fitted, 5, seed=seed).frames for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_samples_start_from_a_background(small_config: Config, small_data: Data) -> None:
    config = small_config(model=VARIATIONAL | {"background": {"bottleneck": 4}})
    torch.manual_seed(0)
    model = with_random_writes(SequentialAutoEncoder(config.model))
    fitted = fit_layouts(model, small_data(config).train.images)
    made = sample_scenes(model, fitted, 6)
    starts = {start.tobytes() for start in fitted.starts}
    assert all(frame.tobytes() in starts for frame in made.frames[:, 0])


def test_a_plain_coder_has_no_prior(small_config: Config, images: np.ndarray) -> None:
    torch.manual_seed(0)
    model = with_random_writes(SequentialAutoEncoder(small_config().model))
    fitted = fit_layouts(model, images)
    with pytest.raises(SamplingError, match="not variational"):
        sample_scenes(model, fitted, 3)
    assert sample_scenes(model, fitted, 3, codes="fitted").frames.shape[0] == 3
