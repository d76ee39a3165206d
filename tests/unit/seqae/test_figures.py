"""Figures 4 to 10: that they show what they say, with numbers that can be had another way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seqae.attention import make_filters
from seqae.config import GrowthStep, ImagesConfig, TrainConfig
from seqae.data.cache import Dataset
from seqae.data.digits import Digits, bundled_digits
from seqae.errors import CheckpointError, DataError, FigureError
from seqae.evaluation.segmentation import adjusted_rand, contingency, segment
from seqae.figures.canvases import from_background, from_nothing, reconstruct, single_steps
from seqae.figures.curves import evaluation_curve, training_curve
from seqae.figures.embeddings import GROUPS, Trajectory, make_trajectory, separation, trajectory_embeddings
from seqae.figures.figure import NAMES, Curve, Figure, FigureName
from seqae.figures.layout import grid, heat, signed
from seqae.figures.make import Material, make_figure
from seqae.figures.readers import SETTINGS, density, readers, whole_window
from seqae.model import SequentialAutoEncoder
from seqae.rendering.panels import panel, to_bytes
from seqae.training import Trainer
from tests.untrained import awake

VERMILION = (0xD5, 0x5E, 0x00)
PURPLE = (0xCC, 0x79, 0xA7)

Config = Callable[..., TrainConfig]
Data = Callable[[TrainConfig], Dataset]


def make_model(config: TrainConfig) -> SequentialAutoEncoder:
    """Untrained, but with a localization network that looks about."""
    torch.manual_seed(0)
    model = awake(SequentialAutoEncoder(config.model))
    with torch.no_grad():
        for parameter in model.localizer.head.parameters():  # type: ignore[union-attr]
            parameter.normal_(std=0.3)
    return model


def pixels(figure: Figure) -> NDArray[np.uint8]:
    assert figure.image.mode == "RGB"
    return np.asarray(figure.image)


def has_colour(figure: Figure, colour: tuple[int, int, int]) -> bool:
    return bool((pixels(figure) == colour).all(axis=2).any())


def curve(values: list[float], stride: int = 10) -> Curve:
    return Curve(np.arange(1, len(values) + 1) * stride, np.array(values))


# --- layout


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


# --- Figure 4


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


# --- Figures 5 and 9


def test_the_test_curve_is_summed_up() -> None:
    figure = evaluation_curve(curve([0.3, 0.1, 0.2]), empty=0.5)
    assert figure.numbers == {
        "first": 0.3,
        "last": 0.2,
        "best": 0.1,
        "best_iteration": 20.0,
        "iterations": 30.0,
        "empty": 0.5,
    }
    assert "0.2000" in figure.caption
    assert has_colour(figure, PURPLE)
    assert not has_colour(evaluation_curve(curve([0.3, 0.1, 0.2])), PURPLE)


def test_the_schedule_is_marked_in_the_train_curve() -> None:
    values = [0.4] * 10 + [0.2] * 10 + [0.1] * 10
    growth = (GrowthStep(iteration=0, steps=1), GrowthStep(iteration=100, steps=3), GrowthStep(iteration=200, steps=5))
    figure = training_curve(curve(values), growth, background=0.5)
    stages = {name: value for name, value in figure.numbers.items() if name.startswith("stage")}
    assert stages == pytest.approx({"stage_1": 0.4, "stage_3": 0.2, "stage_5": 0.1})
    assert figure.numbers["of_background"] == pytest.approx(0.2)
    assert has_colour(figure, VERMILION)
    assert not has_colour(training_curve(curve(values)), VERMILION)


def test_a_stage_that_was_not_reached_is_left_out() -> None:
    growth = (GrowthStep(iteration=0, steps=1), GrowthStep(iteration=1000, steps=2))
    figure = training_curve(curve([0.4] * 20), growth, background=0.5)
    assert "stage_2" not in figure.numbers
    assert figure.numbers["of_background"] == pytest.approx(0.8)


def test_no_record_is_an_error() -> None:
    with pytest.raises(FigureError, match="no row"):
        evaluation_curve(curve([]))


# --- Figures 6, 7 and 10


def test_many_digits_get_a_write_each_and_the_errors_are_the_models(small_config: Config, small_data: Data) -> None:
    config = small_config(data={"min_digits": 5, "max_digits": 5, "min_scale": 0.3, "max_scale": 0.3, "test_scenes": 1})
    model, scene = make_model(config), small_data(config).test
    assert config.model.steps == 3
    figure = from_nothing(model, scene)
    output, errors = reconstruct(model, scene.images, 5)
    assert [figure.numbers[f"mse_{t}"] for t in range(6)] == pytest.approx(errors[:, 0].tolist())
    by_hand = ((scene.images[0] / 255 - output.steps[1].canvas[0].numpy()) ** 2).mean()
    assert figure.numbers["mse_2"] == pytest.approx(by_hand, rel=1e-4)
    writes = output.writes.abs().sum(dim=2).movedim(0, 1).numpy()
    assert scene.masks is not None
    assert scene.overlap is not None
    table = contingency(segment(writes, output.canvas.sum(dim=1).numpy()), scene.masks, scene.overlap)
    assert figure.numbers["fg_ari"] == pytest.approx(adjusted_rand(table[:, :, 1:])[0])
    first = np.asarray(panel(to_bytes(scene.images[0] / 255), 128))
    np.testing.assert_array_equal(pixels(figure)[4 : 4 + 128, 4 : 4 + first.shape[1]], first)
    assert figure.image.size == (4 + 4 * (first.shape[1] + 4), 4 + 2 * (128 + 18 + 4)), "two rows of at most four"


def test_each_step_has_a_row(small_config: Config, small_data: Data) -> None:
    config = small_config()
    model, image = make_model(config), small_data(config).test.images[0]
    figure = single_steps(model, image)
    output, errors = reconstruct(model, image[None])
    assert figure.numbers["energy_2"] == pytest.approx(float(output.steps[1].write.square().sum()))
    assert figure.numbers["mse_3"] == pytest.approx(float(errors[3, 0]))
    assert figure.image.height == 18 + 4 + 3 * (128 + 4)


def test_background_comes_first_and_the_image_last(small_config: Config, small_data: Data) -> None:
    config = small_config(model={"background": {"bottleneck": 4}, "channels": 3})
    model, images = make_model(config), small_data(config).train.images[:2]
    figure = from_background(model, images)
    _, errors = reconstruct(model, images)
    assert figure.numbers["mse_0"] == pytest.approx(errors[0].mean())
    assert figure.numbers["of_background"] == pytest.approx(errors[3].mean() / errors[0].mean())
    width = panel(to_bytes(images[0] / 255), 128).width
    last = pixels(figure)[22 : 22 + 128, -4 - width : -4]
    np.testing.assert_array_equal(last, np.asarray(panel(to_bytes(images[0] / 255), 128)))


def test_without_a_background_network_there_is_no_figure_10(small_config: Config, small_data: Data) -> None:
    config = small_config()
    with pytest.raises(FigureError, match="background"):
        from_background(make_model(config), small_data(config).train.images[:2])


def test_a_model_in_training_is_looked_at_in_evaluation_mode(small_config: Config, small_data: Data) -> None:
    config = small_config(model={"coder": {"kind": "variational", "bottleneck": 16}})
    model, images = make_model(config).train(), small_data(config).test.images[:2]
    np.testing.assert_array_equal(reconstruct(model, images)[1], reconstruct(model, images)[1])


# --- Figure 8


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


# --- make_figure


@pytest.fixture
def material(small_config: Config, small_data: Data, tmp_path: Path) -> Callable[..., Material]:
    """A checkpoint of an untrained model with made-up curves; parts of the config go over the small one."""

    def make(**parts: Any) -> Material:
        config = small_config(**parts)
        trainer = Trainer(config, small_data(config))
        awake(trainer.model)
        trainer.save(tmp_path / "checkpoint")
        curves = {name: curve([0.2, 0.1]) for name in ("val/mse", "val/empty_mse", "train/mse")}
        return Material(tmp_path / "cache", checkpoint=tmp_path / "checkpoint", curves=curves)

    return make


BACKGROUND_AND_SAMPLING = {
    "coder": {"kind": "variational", "bottleneck": 16},
    "background": {"bottleneck": 4},
    "height": 48,
    "width": 48,
}


@pytest.mark.parametrize("name", NAMES.values())
def test_every_figure_can_be_made_from_a_checkpoint(name: FigureName, material: Callable[..., Material]) -> None:
    figure = make_figure(name, material(model=BACKGROUND_AND_SAMPLING))
    assert figure.caption.endswith(".")
    assert figure.numbers
    assert all(np.isfinite(value) for value in figure.numbers.values())
    assert np.ptp(pixels(figure)) > 100


def test_names_are_written_as_people_write_them() -> None:
    assert NAMES == {"4": 4, "5": 5, "6": 6, "7": 7, "8": 8, "9": 9, "10": 10, "sample": "sample"}
    assert set(NAMES.values()) == set(get_args(FigureName))


def test_a_figure_is_the_same_each_time_and_another_scene_is_another_figure(material: Callable[..., Material]) -> None:
    made = material()
    first, again, other = (make_figure(7, made, index=index) for index in (0, 0, 1))
    assert first.numbers == again.numbers != other.numbers
    np.testing.assert_array_equal(pixels(first), pixels(again))


@pytest.mark.parametrize("name", [6, 7, 8, 10, "sample"])
def test_what_needs_a_model_says_so(name: FigureName, tmp_path: Path) -> None:
    with pytest.raises(FigureError, match="trained model"):
        make_figure(name, Material(tmp_path))


@pytest.mark.parametrize("name", [5, 9])
def test_what_needs_a_record_says_so(name: FigureName, tmp_path: Path) -> None:
    with pytest.raises(FigureError, match="record"):
        make_figure(name, Material(tmp_path))


def test_readers_need_no_model(tmp_path: Path) -> None:
    assert make_figure(4, Material(tmp_path)).numbers["mse_n42_sigma0.01"] < 0.1


def test_a_damaged_checkpoint_is_an_error(material: Callable[..., Material]) -> None:
    made = material()
    assert made.checkpoint is not None
    (made.checkpoint / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError):
        make_figure(7, made)


def test_figures_of_digits_refuse_a_folder_of_images(material: Callable[..., Material], tmp_path: Path) -> None:
    made = material()
    other = Material(made.cache_dir, checkpoint=made.checkpoint, data=ImagesConfig(path=str(tmp_path)))
    with pytest.raises(FigureError, match="digits"):
        make_figure(6, other)


def test_an_image_that_is_not_there_is_an_error(material: Callable[..., Material]) -> None:
    with pytest.raises(FigureError, match="there are 30 images"):
        make_figure(10, material(model={"background": {"bottleneck": 4}}), index=30)


def test_digits_that_do_not_fit_are_an_error(material: Callable[..., Material]) -> None:
    with pytest.raises(DataError, match="do not fit"):
        make_figure(6, material(data={"min_scale": 0.85, "max_scale": 0.85}))
