"""Each method on tiny scenes: it learns in a few steps, and gives segments of the right shape."""

from collections.abc import Callable

import numpy as np
import pytest

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.errors import DivergedError, Error
from seqae.evaluation.baselines import find_foreground
from seqae.peers.method import Method, batches, check_finite, count_owned, half_cosine, joined
from seqae.peers.settings import MethodName, SceneSet, config_of, make_method

LEARNERS = [name for name in MethodName if name.learns]
ConfigOf = Callable[..., TrainConfig]
DataOf = Callable[[TrainConfig], Dataset]


def _config(name: MethodName, small_config: ConfigOf, channels: int = 1) -> TrainConfig:
    return small_config(model={"channels": channels}, schedule={"batch_size": 10}, seed=1)


def _error(method: Method, data: Dataset) -> float:
    canvases = method.segment(data.train.images).canvases
    assert canvases is not None
    return float(np.square(data.train.images / 255 - canvases).mean())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", MethodName)
def test_segments_have_the_shape_of_the_images(
    name: MethodName, channels: int, small_config: ConfigOf, small_data: DataOf
) -> None:
    config = _config(name, small_config, channels)
    data = small_data(config)
    method = make_method(name, config, data, 4)
    if name.learns:
        method.step()
    images = data.test.images
    found = method.segment(images)
    assert found.owners.shape == (9, 24, 28)
    assert found.counts.shape == (9,)
    assert 0 <= found.owners.min() <= found.owners.max() <= 28
    assert not found.owners[~find_foreground(images)].any(), "what does not differ from the background is nobody's"
    if found.canvases is not None:
        assert found.canvases.shape == images.shape
    again = method.segment(images)
    assert (again.owners == found.owners).all()
    assert (method.parameters > 0) == name.learns


@pytest.mark.parametrize("name", LEARNERS)
def test_each_method_learns(name: MethodName, small_config: ConfigOf, small_data: DataOf) -> None:
    config = _config(name, small_config)
    data = small_data(config)
    method = make_method(name, config, data, 24)
    before = _error(method, data)
    for _ in range(24):
        method.step()
    assert _error(method, data) < before


@pytest.mark.parametrize("name", LEARNERS)
def test_a_seed_repeats_a_run(name: MethodName, small_config: ConfigOf, small_data: DataOf) -> None:
    config = _config(name, small_config)
    data = small_data(config)
    errors = []
    for _ in range(2):
        method = make_method(name, config, data, 2)
        method.step()
        method.step()
        errors.append(_error(method, data))
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)


@pytest.mark.parametrize("name", [MethodName.DRAW, MethodName.SLOT_ATTENTION])
def test_a_loss_that_is_no_number_ends_a_run(name: MethodName, small_config: ConfigOf, small_data: DataOf) -> None:
    config = _config(name, small_config)
    method = make_method(name, config, small_data(config), 2)
    for parameter in vars(method)["model"].parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(DivergedError, match="the loss is nan at iteration 1"):
        method.step()


def test_batches_are_permutations_laid_end_to_end() -> None:
    images = np.arange(7, dtype=np.uint8)[:, None, None, None]
    given = batches(images, 3, seed=0)
    seen = np.concatenate([(next(given) * 255).round().numpy().ravel() for _ in range(7)])
    assert [sorted(seen[at : at + 7]) for at in (0, 7, 14)] == [list(range(7))] * 3
    assert len(next(batches(images, 20, seed=0))) == 20, "more than there are"


def test_small_segments_do_not_count() -> None:
    owners = np.zeros((2, 8, 8), np.int32)
    owners[0, :2, :5], owners[0, 4, :9] = 3, 5
    assert count_owned(owners).tolist() == [1, 0]


def test_segments_of_parts_are_laid_end_to_end(small_config: ConfigOf, small_data: DataOf) -> None:
    config = _config(MethodName.OURS, small_config)
    data = small_data(config)
    method = make_method(MethodName.OURS, config, data, 2)
    whole = method.segment(data.train.images)
    parts = joined([method.segment(data.train.images[:11]), method.segment(data.train.images[11:])])
    assert (parts.owners == whole.owners).all()
    assert (parts.counts == whole.counts).all()


def test_the_rate_falls_to_nothing() -> None:
    assert half_cosine(0, 10) == 1
    assert half_cosine(5, 10) == pytest.approx(0.5)
    assert half_cosine(10, 10) == half_cosine(12, 10) == 0


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_an_infinite_loss_is_reported(loss: float) -> None:
    with pytest.raises(DivergedError, match="at iteration 3"):
        check_finite(loss, 3)
    with pytest.raises(DivergedError, match="the gradient is"):
        check_finite(loss, 3, "gradient")
    check_finite(1.0, 3)


@pytest.mark.parametrize("scenes", SceneSet)
def test_all_methods_see_the_same_scenes(scenes: SceneSet) -> None:
    configs = [config_of(scenes, name, 3, "bundled") for name in MethodName]
    assert len({str(config.data) for config in configs}) == 1
    assert len({(config.model.height, config.model.channels, config.model.steps) for config in configs}) == 1
    assert {config.seed for config in configs} == {3}


def test_airs_setting_has_none_to_two_digits_which_may_overlap() -> None:
    data = config_of(SceneSet.AIR_SETTING, MethodName.AIR, 0).data
    assert (data.kind, data.model_dump()["min_digits"], data.model_dump()["max_digits"]) == ("mnist_scenes", 0, 2)
    assert data.model_dump()["max_overlap"] == 1


def test_without_its_package_air_says_what_to_install(
    small_config: ConfigOf, small_data: DataOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "seqae.peers.air", None)
    config = _config(MethodName.AIR, small_config)
    with pytest.raises(Error, match=r"pip install 'seqae\[bench\]'"):
        make_method(MethodName.AIR, config, small_data(config), 2)
