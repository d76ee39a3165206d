"""Pydantic's locations as JSON pointers into what the client really sent."""

from typing import Any

import pytest
from pydantic import ValidationError

from jobs.specs import job_spec
from service.api.json_pointers import body_problems, pointer_to


def problems(body: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        job_spec.validate_python(body)
    return {problem.pointer: problem.detail for problem in body_problems(caught.value.errors(), body)}


@pytest.mark.parametrize(
    ("parts", "pointer"),
    [
        ([], "#"),
        (["model", "steps"], "#/model/steps"),
        (["growth", 0, "steps"], "#/growth/0/steps"),
        (["a/b"], "#/a~1b"),
        (["a~b"], "#/a~0b"),
        (["a~1b"], "#/a~01b"),
        (["a b%", "ü"], "#/a%20b%25/%C3%BC"),
        ([""], "#/"),
    ],
)
def test_escapes_as_the_rfc_says(parts: list[str | int], pointer: str) -> None:
    assert pointer_to(parts) == pointer


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"name": "a", "model": {"steps": -1}}, ["#/model/steps"]),
        ({"name": "a", "model": {"steps": 0, "height": "x"}}, ["#/model/height", "#/model/steps"]),
        ({}, ["#/name"]),
        ({"kind": "train", "name": "a", "stepz": 1}, ["#/stepz"]),
        ({"name": "a", "data": {"kind": "mnist_scenes", "train_scenes": 0}}, ["#/data/train_scenes"]),
        ({"name": "a", "data": {"kind": "images"}}, ["#/data/path"]),
        ({"name": "a", "data": {"kind": "nonsense"}}, ["#/data/kind"]),
        ({"kind": "nonsense", "name": "a"}, ["#/kind"]),
        ({"name": "a", "data": "digits"}, ["#/data"]),
        ([1, 2], ["#"]),
        ("train", ["#"]),
        (None, ["#"]),
        ({"name": "a", "scaling": {"workers": "two"}}, ["#/scaling/workers"]),
        ({"name": "a", "scaling": {"workers": {"min": 0, "max": 1}}}, ["#/scaling/workers/min"]),
        ({"name": "a", "scaling": {"workers": {"min": 3, "max": 1}}}, ["#/scaling/workers/min"]),
        ({"name": "a", "model": {"attention": {"kernel_size": 80}}}, ["#/model/attention/kernel_size"]),
        ({"name": "a", "schedule": {"growth": [{"iteration": 1, "steps": 9}]}}, ["#/schedule/growth/0/steps"]),
        (
            {"name": "a", "schedule": {"growth": [{"steps": 1}, 7]}},
            ["#/schedule/growth/0/iteration", "#/schedule/growth/1"],
        ),
        ({"kind": "tune", "name": "a", "base": {"name": "", "x/y": 1}, "space": {}}, ["#/base/name", "#/base/x~1y"]),
        ({"kind": "tune", "name": "a", "base": {"name": "b"}, "space": {"bottleneck": [0]}}, ["#/space/bottleneck/0"]),
    ],
)
def test_points_at_the_field_at_fault(body: Any, pointers: list[str]) -> None:
    assert sorted(problems(body)) == sorted(pointers)


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        # Fields with the names of pydantic's union branches.
        ({"name": "a", "train": {"steps": 1}}, ["#/train"]),
        ({"name": "a", "data": {"kind": "mnist_scenes", "mnist_scenes": 1}}, ["#/data/mnist_scenes"]),
        (
            {"name": "a", "data": {"kind": "mnist_scenes", "mnist_scenes": 1, "seed": -1}},
            ["#/data/mnist_scenes", "#/data/seed"],
        ),
    ],
)
def test_is_not_fooled_by_fields_named_like_branches(body: Any, pointers: list[str]) -> None:
    assert sorted(problems(body)) == sorted(pointers)


def test_says_what_is_wrong_in_words() -> None:
    found = problems({"name": "a", "model": 5, "foo": 1, "data": {"kind": "x"}, "scaling": {"workers": "two"}})
    assert found["#/model"] == "must be an object"
    assert found["#/foo"] == "is not a known field"
    assert found["#/data/kind"].startswith("must be one of 'mnist_scenes', 'images'")
    assert found["#/scaling/workers"].endswith(", or: must be an object")


def test_lists_only_so_many() -> None:
    growth: list[dict[str, int]] = [{} for _ in range(500)]
    assert len(problems({"name": "a", "schedule": {"growth": growth}})) == 50
