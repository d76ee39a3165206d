"""Figure 8."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.data.digits import Digits, bundled_digits
from seqae.errors import FigureError
from seqae.figures.embeddings import GROUPS, Trajectory, make_trajectory, separation, trajectory_embeddings
from tests.unit.seqae.figures.helpers import make_model

Config = Callable[..., TrainConfig]
Data = Callable[[TrainConfig], Dataset]


@pytest.fixture(scope="module")
def digits() -> Digits:
    return bundled_digits().test


@pytest.fixture(scope="module")
def trajectory(digits: Digits) -> Trajectory:
    return make_trajectory(digits, 64, 64, 1)


def test_the_number_moves_along_three_sides(trajectory: Trajectory) -> None:
    ink = trajectory.images[:, 0] > 0
    lower, right, diagonal = (trajectory.groups == group for group in range(3))
    assert GROUPS == ("lower", "right", "diag")
    assert ink[lower, -1].any(axis=1).all(), "at the lower border"
    assert ink[right, :, -1].any(axis=1).all(), "at the right border"
    assert not ink[diagonal, -1].any(), "at neither"
    assert not ink[diagonal, :, -1].any(), "at neither"
    assert np.ptp(trajectory.places[lower, 1]) == 0
    assert np.ptp(trajectory.places[right, 0]) == 0
    slope = np.polyfit(trajectory.places[diagonal, 0], trajectory.places[diagonal, 1], 1)[0]
    assert slope < 0, "from the lower left to the upper right"
    assert np.abs(np.diff(trajectory.places[lower, 0])).max() == 1, "pixel by pixel"


def test_the_number_is_where_it_is_said_to_be(trajectory: Trajectory) -> None:
    for image, (x, y) in zip(trajectory.images[::20, 0], trajectory.places[::20], strict=True):
        rows, columns = np.nonzero(image)
        assert ((columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2) == (x, y)
    sums = trajectory.images.reshape(len(trajectory.images), -1).sum(axis=1)
    assert np.ptp(sums) == 0, "always the same number"
    assert len(np.unique(trajectory.places, axis=0)) == len(trajectory.places), "no place belongs to two groups"


def test_a_number_without_room_is_an_error(digits: Digits) -> None:
    with pytest.raises(FigureError, match="no room"):
        make_trajectory(digits, 40, 40, 1)
    assert make_trajectory(digits, 40, 40, 3, scale=0.5).images.shape[1:] == (3, 40, 40)


def test_separation_of_known_groups() -> None:
    groups = np.repeat([0, 1, 2], 10)
    corners = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    apart = corners[groups] + np.random.default_rng(0).normal(0, 0.5, (30, 2))
    silhouette, accuracy = separation(apart, groups)
    assert silhouette > 0.95
    assert accuracy == 1.0
    mixed = np.random.default_rng(1).normal(size=(30, 2))
    assert separation(mixed, groups)[0] < 0.1
    silhouette, accuracy = separation(np.ones((30, 2)), groups)
    assert silhouette == 0
    assert accuracy == pytest.approx(1 / 3)


def test_embeddings_that_say_the_place_separate_and_others_do_not(small_config: Config, digits: Digits) -> None:
    config = small_config(
        model={"height": 48, "width": 48, "localizer": {"kind": "small"}}, data={"min_scale": 0.6, "max_scale": 0.6}
    )
    model, trajectory = make_model(config), make_trajectory(digits, 48, 48, 1, scale=0.6)
    figure = trajectory_embeddings(model, trajectory)
    numbers = figure.numbers
    assert numbers["knn_embedding"] > 0.7, "the features of a convolution keep the place"
    assert numbers["points"] == len(trajectory.images)
    assert numbers["knn_place"] > numbers["largest_group"]
    assert trajectory_embeddings(model, trajectory).numbers == pytest.approx(dict(numbers)), "the same at each call"
    with torch.no_grad():
        for parameter in model.localizer.parameters():
            parameter.zero_()
    numbers = trajectory_embeddings(model, trajectory).numbers
    assert numbers["silhouette_embedding"] == 0.0
    assert numbers["knn_embedding"] == pytest.approx(numbers["largest_group"])
