"""The space of a search: its keys, its domains, and what is refused of both at submission."""

import time
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.search.space import (
    ChoiceDomain,
    IntDomain,
    LogUniformDomain,
    SearchSpace,
    active,
    domains_of,
    grid,
    with_params,
)
from jobs.specs import TuneSpec, job_spec
from seqae.config import LossConfig
from service.api.json_pointers import body_problems


def _body(space: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"kind": "tune", "name": "a", "base": {"name": "b"}, "space": space, **fields}


def _spec(space: dict[str, Any], **fields: Any) -> TuneSpec:
    spec = job_spec.validate_python(_body(space, **fields))
    assert isinstance(spec, TuneSpec)
    return spec


def _pointers(space: dict[str, Any], **fields: Any) -> dict[str, str]:
    body = _body(space, **fields)
    with pytest.raises(ValidationError) as caught:
        job_spec.validate_python(body)
    return {problem.pointer: problem.detail for problem in body_problems(caught.value.errors(), body)}


WHOLE = {
    "alpha_mseot": {"low": 1, "high": 3},
    "loss.alpha_location": {
        "kind": "uniform",
        "low": 0,
        "high": 1,
        "when": {"model.localizer.kind": ["seeker"]},
    },
    "schedule.learning_rate": {"kind": "loguniform", "low": 1e-4, "high": 1e-2},
    "model.localizer.kind": {"kind": "choice", "values": ["seeker", "small"]},
    "model.attention.kernel_size": {"kind": "int", "low": 16, "high": 32, "step": 5},
}


def test_paths_and_short_names_stand_beside_each_other() -> None:
    spec = _spec(WHOLE)
    domains = domains_of(spec.space)
    assert domains["loss.alpha_mseot"] == LogUniformDomain(kind="loguniform", low=1, high=3)
    assert domains["model.attention.kernel_size"] == IntDomain(kind="int", low=16, high=32, step=5)
    # What a condition asks for is known before it.
    assert list(domains).index("model.localizer.kind") < list(domains).index("loss.alpha_location")
    assert TuneSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_the_short_names_mean_what_they_did() -> None:
    domains = domains_of(_spec({"alpha_region": {"low": 0.1, "high": 2}, "bottleneck": [8, 16]}).space)
    assert domains == {
        "loss.alpha_region": LogUniformDomain(kind="loguniform", low=0.1, high=2),
        "model.coder.bottleneck": ChoiceDomain(kind="choice", values=(8, 16)),
    }


UNIFORM = {"kind": "uniform", "low": 0, "high": 1}


@pytest.mark.parametrize(
    ("space", "pointer", "words"),
    [
        ({}, "#/space", "nothing to vary"),
        ({"loss.nope": UNIFORM}, "#/space/loss.nope", "no field"),
        ({"loss": UNIFORM}, "#/space/loss", "no field"),
        ({"data.train_scenes": UNIFORM}, "#/space/data.train_scenes", "no field"),
        ({"model.background.bottleneck": UNIFORM}, "#/space/model.background.bottleneck", "no field"),
        ({"schedule.growth": UNIFORM}, "#/space/schedule.growth", "no field"),
        ({"schedule.epochs": UNIFORM}, "#/space/schedule.epochs", "same budget"),
        ({"a/b": UNIFORM}, "#/space", "dotted path"),
        ({"loss.beta": 7}, "#/space/loss.beta", "must be an object"),
        ({"loss.beta": UNIFORM | {"kind": "normal"}}, "#/space/loss.beta/kind", "must be one of"),
        ({"loss.beta": UNIFORM | {"low": 2}}, "#/space/loss.beta/low", "larger than high"),
        ({"loss.beta": {"kind": "loguniform", "low": 0, "high": 1}}, "#/space/loss.beta/low", "greater than"),
        ({"schedule.learning_rate": UNIFORM}, "#/space/schedule.learning_rate/low", "greater than"),
        ({"loss.beta": UNIFORM | {"high": 1e8}}, "#/space/loss.beta/high", "less than"),
        ({"kernel_size": [25, 70]}, "#/space/kernel_size/1", "image's side"),
        (
            {"model.attention.kernel_size": {"kind": "choice", "values": [25, 70]}},
            "#/space/model.attention.kernel_size/values/1",
            "image's side",
        ),
        ({"model.localizer.kind": {"kind": "choice", "values": ["big"]}}, "#/space/model.localizer.kind/values/0", ""),
        (
            {"bottleneck": [8], "model.coder.bottleneck": {"kind": "choice", "values": [9]}},
            "#/space/model.coder.bottleneck",
            "twice",
        ),
        (
            # Each bound is fine beside the base's other one.
            {
                "model.attention.delta_min": {"kind": "uniform", "low": 0.2, "high": 1},
                "model.attention.delta_max": {"kind": "uniform", "low": 0.5, "high": 2},
            },
            "#/space/model.attention.delta_min",
            "beside a value of model.attention.delta_max",
        ),
        ({"loss.beta": UNIFORM | {"when": {"model.coder.kind": ["x"]}}}, "#/space/loss.beta/when", "does not have"),
        (
            {"loss.beta": UNIFORM | {"when": {"bottleneck": [8]}}, "bottleneck": [8]},
            "#/space/loss.beta/when",
            "does not have",
        ),
        (
            {"loss.beta": UNIFORM | {"when": {"model.coder.bottleneck": [9]}}, "bottleneck": [8]},
            "#/space/loss.beta/when/model.coder.bottleneck",
            "may have",
        ),
        (
            {"loss.beta": UNIFORM | {"when": {"loss.alpha_region": [1]}}, "loss.alpha_region": UNIFORM},
            "#/space/loss.beta/when/loss.alpha_region",
            "choice",
        ),
    ],
)
def test_a_wrong_key_is_pointed_at(space: dict[str, Any], pointer: str, words: str) -> None:
    found = _pointers(space)
    assert list(found) == [pointer]
    assert words in found[pointer]


def test_conditions_in_a_circle_are_refused() -> None:
    choice = {"kind": "choice", "values": ["seeker", "small"], "when": {"model.coder.kind": ["autoencoder"]}}
    other = {"kind": "choice", "values": ["autoencoder"], "when": {"model.localizer.kind": ["seeker"]}}
    found = _pointers({"model.localizer.kind": choice, "model.coder.kind": other})
    assert list(found.values()) == ["waits for a key that waits for this one"]


def test_a_key_can_not_wait_for_itself() -> None:
    choice = {"kind": "choice", "values": ["seeker", "small"], "when": {"model.localizer.kind": ["seeker"]}}
    found = _pointers({"model.localizer.kind": choice, "bottleneck": [8]})
    assert found == {"#/space/model.localizer.kind/when": "waits for a key that waits for this one"}


def test_many_conditions_on_many_keys_are_read_at_once() -> None:
    """Each way through them would be walked one by one: 2^20 ways and more."""
    names = [name for name, field in LossConfig.model_fields.items() if field.annotation is float]
    names = [f"loss.{name}" for name in names] + [f"model.attention.{name}" for name in ("delta_min", "sigma_min")]
    space: dict[str, Any] = {}
    for at, name in enumerate(names * 3):
        key = name if at < len(names) else f"{name}{at}"
        space[key] = {"kind": "choice", "values": [0.5], "when": {other: [0.5] for other in list(space)[-8:]}}
    parsed = SearchSpace.model_validate(dict(reversed(space.items())))
    started = time.perf_counter()
    assert list(domains_of(parsed)) == list(space)
    assert time.perf_counter() - started < 5


def test_values_that_never_meet_are_not_tried_beside_each_other() -> None:
    seeker, small = ({"when": {"model.localizer.kind": [kind]}} for kind in ("seeker", "small"))
    _spec(
        {
            "model.localizer.kind": {"kind": "choice", "values": ["seeker", "small"]},
            "model.attention.delta_min": {"kind": "uniform", "low": 0.2, "high": 1, **seeker},
            "model.attention.delta_max": {"kind": "uniform", "low": 0.5, "high": 2, **small},
        }
    )


def test_a_condition_holds_by_what_the_others_have_become() -> None:
    domain = domains_of(_spec(WHOLE).space)["loss.alpha_location"]
    assert active(domain, {"model.localizer.kind": "seeker"})
    assert not active(domain, {"model.localizer.kind": "small"})
    assert not active(domain, {})


def test_params_reach_their_parts_and_leave_the_base_alone() -> None:
    base = _spec(WHOLE).base.model_dump(mode="json")
    changed = with_params(base, {"loss.beta": 0.5, "model.coder.bottleneck": 7})
    assert (changed["loss"]["beta"], changed["model"]["coder"]["bottleneck"]) == (0.5, 7)
    assert base == _spec(WHOLE).base.model_dump(mode="json")
    with pytest.raises(KeyError):
        with_params(base, {"loss.nope": 1})


def test_the_grid_has_every_combination_once() -> None:
    space = {
        "model.localizer.kind": {"kind": "choice", "values": ["seeker", "small"]},
        "loss.alpha_location": UNIFORM | {"when": {"model.localizer.kind": ["seeker"]}},
        "loss.alpha_region": {"kind": "loguniform", "low": 0.01, "high": 1},
        "model.attention.kernel_size": {"kind": "int", "low": 16, "high": 32, "step": 10},
    }
    points = list(grid(domains_of(_spec(space).space), 3))
    # Beside the small one alpha_location is not varied.
    assert len(points) == (3 + 1) * 3 * 2
    assert len({tuple(point.items()) for point in points}) == len(points)
    assert {point["model.attention.kernel_size"] for point in points} == {16, 26}
    assert sorted({round(float(point["loss.alpha_region"]), 6) for point in points}) == [0.01, 0.1, 1]
    assert {point.get("loss.alpha_location") for point in points} == {None, 0, 0.5, 1}


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"objectives": ["val/mse", "val/mse"]}, "#/objectives"),
        ({"objectives": ["val/accuracy"]}, "#/objectives/0"),
        ({"constraints": ["val/mse = 1"]}, "#/constraints/0"),
        ({"constraints": ["val/mse <= 1", "val/accuracy >= 1"]}, "#/constraints/1"),
        ({"objectives": ["val/mse", "val/fg_ari"], "scheduler": "asha"}, "#/scheduler"),
        ({"objectives": ["val/mse", "val/fg_ari"], "sampler": "cma-es"}, "#/sampler"),
        ({"scheduler": "pbt"}, "#/scheduler"),
        ({"warm_start": "../x"}, "#/warm_start"),
        ({"base": {"name": "b", "start_from": "cells"}}, "#/base/start_from"),
        ({"retrain": {"epochs": 0}}, "#/retrain/epochs"),
    ],
)
def test_settings_that_do_not_fit_are_pointed_at(fields: dict[str, Any], pointer: str) -> None:
    assert list(_pointers({"bottleneck": [8, 16]}, **fields)) == [pointer]


def test_defaults_follow_the_objectives() -> None:
    one = _spec({"bottleneck": [8]})
    assert (one.stops_by, one.goals) == ("asha", {"val/objective": False})
    several = _spec({"bottleneck": [8]}, objectives=["val/mse", "val/fg_ari"], constraints=["val/miou >= 0.5"])
    assert (several.stops_by, several.goals) == ("none", {"val/mse": False, "val/fg_ari": True})
    assert several.bounds == {"val/miou >= 0.5": ("val/miou", False, 0.5)}
    assert _spec({"bottleneck": [8, 16]}, sampler="grid", trials=9).most_trials == 2
    assert _spec({"bottleneck": [8, 16]}, sampler="grid", trials=1).most_trials == 1
