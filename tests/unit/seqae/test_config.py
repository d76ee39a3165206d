import typing
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from seqae.config import (
    AttentionConfig,
    Config,
    ImagesConfig,
    MnistScenesConfig,
    ModelConfig,
    ScheduleConfig,
    SpritesConfig,
    TetrominoesConfig,
    TrainConfig,
    field_error,
)


def problems(given: dict[str, Any]) -> list[tuple[tuple[str | int, ...], str | None]]:
    """Where each error is, and the pointer it carries from there."""
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate(given)
    return [(error["loc"], error.get("ctx", {}).get("pointer")) for error in caught.value.errors()]


def only_choice(field: FieldInfo) -> bool:
    """A tag such as `kind: Literal["images"]` can't be anything else."""
    return typing.get_origin(field.annotation) is typing.Literal and len(typing.get_args(field.annotation)) == 1


def unchanged(config: BaseModel, at: str = "") -> list[str]:
    """Fields that have their default."""
    found = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if only_choice(field):
            continue
        if isinstance(value, Config):
            found += unchanged(value, f"{at}{name}.")
        elif value == field.get_default():
            found.append(at + name)
    return found


def test_an_empty_request_is_a_whole_config() -> None:
    config = TrainConfig.model_validate({})
    assert config == TrainConfig()
    assert (config.model.attention.kernel_size, config.schedule.batch_size) == (25, 25), "the paper's"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "loc"),
    [
        ({"modle": {}}, ("modle",)),
        ({"model": {"attention": {"kernel": 25}}}, ("model", "attention", "kernel")),
        ({"model": {"background": {"bottlneck": 1}}}, ("model", "background", "bottlneck")),
        ({"schedule": {"growth": [{"iteration": 0, "steps": 1, "t": 1}]}}, ("schedule", "growth", 0, "t")),
        ({"data": {"kind": "images", "path": "x", "digits": "mnist"}}, ("data", "images", "digits")),
        ({"model": {"steps": "many"}}, ("model", "steps")),
        ({"model": {"steps": 2.5}}, ("model", "steps")),
        ({"model": {"height": -64}}, ("model", "height")),
        ({"model": {"channels": 2}}, ("model", "channels")),
        ({"model": {"attention": {"kernel_size": 7}}}, ("model", "attention", "kernel_size")),
        ({"schedule": {"learning_rate": "inf"}}, ("schedule", "learning_rate")),
        ({"schedule": {"epochs": "nan"}}, ("schedule", "epochs")),
        ({"loss": {"alpha_region": -1}}, ("loss", "alpha_region")),
        ({"preset": "other"}, ("preset",)),
        ({"seed": -1}, ("seed",)),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], loc: tuple[str | int, ...]) -> None:
    assert [where for where, _ in problems(given)] == [loc]


@pytest.mark.parametrize(
    ("given", "loc", "pointer"),
    [
        ({"model": {"localizer": {"sizes": [12, 24]}}}, ("model", "localizer"), "sizes/1"),
        ({"model": {"localizer": {"sizes": [20, 12]}}}, ("model", "localizer"), "sizes/1"),
        ({"model": {"height": 24, "attention": {"kernel_size": 25}}}, ("model",), "attention/kernel_size"),
        ({"model": {"width": 24}}, ("model",), "attention/kernel_size"),
        ({"model": {"attention": {"delta_min": 1.2}}}, ("model", "attention"), "delta_min"),
        ({"model": {"attention": {"sigma_min": 0.9}}}, ("model", "attention"), "sigma_min"),
        ({"data": {"min_digits": 5}}, ("data", "mnist_scenes"), "min_digits"),
        ({"data": {"min_scale": 2}}, ("data", "mnist_scenes"), "min_scale"),
        ({"data": {"train_labels": [1, 0]}}, ("data", "mnist_scenes"), "train_labels/1"),
        ({"data": {"test_labels": [3, 8, 8]}}, ("data", "mnist_scenes"), "test_labels/2"),
        ({"data": {"kind": "sprites", "min_objects": 6}}, ("data", "sprites"), "min_objects"),
        ({"data": {"kind": "sprites", "min_size": 30}}, ("data", "sprites"), "min_size"),
        ({"data": {"kind": "sprites", "max_size": 65}}, (), "data/max_size"),
        ({"data": {"kind": "tetrominoes", "block": 17}}, (), "data/block"),
        ({"data": {"max_scale": 2.5}}, (), "data/max_scale"),
        ({"schedule": {"growth": [{"iteration": 0, "steps": 7}]}}, (), "schedule/growth/0/steps"),
        (
            {"schedule": {"growth": [{"iteration": 0, "steps": 2}, {"iteration": 0, "steps": 3}]}},
            (),
            "schedule/growth/1",
        ),
        (
            {"schedule": {"growth": [{"iteration": 0, "steps": 3}, {"iteration": 5, "steps": 2}]}},
            (),
            "schedule/growth/1",
        ),
        ({"schedule": {"growth": [{"iteration": 0, "steps": 3}]}}, (), "schedule/growth/0/steps"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_pointed_at(
    given: dict[str, Any], loc: tuple[str | int, ...], pointer: str
) -> None:
    assert problems(given) == [(loc, pointer)]


def test_field_error_shows_braces_as_they_are() -> None:
    assert field_error("a/b", "{0} and {name}").message() == "{0} and {name}"


def test_a_grid_as_large_as_the_image_fits() -> None:
    assert ModelConfig(height=32, width=40, attention=AttentionConfig(kernel_size=32)).height == 32


def test_growth_that_goes_up_is_taken() -> None:
    growth = [{"iteration": 0, "steps": 2}, {"iteration": 5000, "steps": 2}, {"iteration": 9000, "steps": 6}]
    assert len(TrainConfig.model_validate({"schedule": {"growth": growth}}).schedule.growth) == 3


def test_the_kind_of_data_chooses_its_fields() -> None:
    assert isinstance(TrainConfig.model_validate({"data": {"seed": 3}}).data, MnistScenesConfig)
    assert isinstance(TrainConfig.model_validate({"data": {"kind": "images", "path": "coco"}}).data, ImagesConfig)
    assert isinstance(TrainConfig.model_validate({"data": {"kind": "sprites"}}).data, SpritesConfig)
    assert isinstance(TrainConfig.model_validate({"data": {"kind": "tetrominoes"}}).data, TetrominoesConfig)
    assert [loc for loc, _ in problems({"data": {"kind": "video"}})] == [("data",)]
    assert [loc for loc, _ in problems({"data": {"kind": "images"}})] == [("data", "images", "path")]


def test_preset_paper_is_the_papers_setting() -> None:
    config = TrainConfig.model_validate({"preset": "paper"})
    assert config.model.localizer.kind == "small", "Figure 2"
    assert config.model.attention.kernel_size == 25, "section 3.2"
    assert (config.schedule.epochs, config.schedule.batch_size) == (250, 25), "section 3.2"
    assert config.model.attention.sigma == "free", "Eq. 9 has a sigma of its own"
    assert config.model.attention.log_gamma_max > 0, "Eq. 11 has a gamma"
    assert config.model.attention.write_gain == "paper", "Eq. 12"
    assert config.loss.region_target == "image", "section 2.5 reads the original"
    assert config.model.background is None


def test_fields_given_beside_a_preset_win_and_leave_the_rest() -> None:
    given = {"preset": "paper", "model": {"attention": {"delta_max": 1.5}}, "schedule": {"epochs": 1}}
    config = TrainConfig.model_validate(given)
    plain = TrainConfig.model_validate({"preset": "paper"})
    assert config.model.attention == plain.model.attention.model_copy(update={"delta_max": 1.5})
    assert config.schedule == plain.schedule.model_copy(update={"epochs": 1.0})
    assert config.model.localizer == plain.model.localizer


def test_a_field_beside_a_preset_is_checked_against_it() -> None:
    assert problems({"preset": "paper", "model": {"attention": {"delta_min": 2.8}}}) == [
        (("model", "attention"), "delta_min")
    ]


def test_parts_given_as_objects_leave_a_presets_other_fields() -> None:
    config = TrainConfig(preset="paper", model=ModelConfig(steps=3))
    assert config.model.steps == 3
    assert config.model.localizer.kind == "small"


def test_every_field_survives_json(changed_config: TrainConfig) -> None:
    assert unchanged(changed_config) == [], "the fixture changes every field"
    again = TrainConfig.model_validate_json(changed_config.model_dump_json())
    assert again == changed_config
    assert again.model_dump() == changed_config.model_dump()


def test_json_of_a_preset_gives_the_same_config_again() -> None:
    config = TrainConfig.model_validate({"preset": "paper", "model": {"steps": 9}})
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config


def test_bare_leaves_out_what_a_subclass_adds(changed_config: TrainConfig) -> None:
    class Job(TrainConfig):
        name: str

    job = Job.model_validate({"name": "job"} | changed_config.model_dump())
    assert type(job.bare()) is TrainConfig
    assert job.bare() == changed_config


@pytest.mark.parametrize(
    ("batch", "epochs", "images", "expected"), [(25, 250, 10_000, 100_000), (5, 0.5, 30, 3), (25, 0.01, 30, 1)]
)
def test_iterations(batch: int, epochs: float, images: int, expected: int) -> None:
    assert ScheduleConfig(batch_size=batch, epochs=epochs).iterations(images) == expected
