"""What the wire format takes and what it refuses by itself, whatever the cluster."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.directory.layout import JobFolder
from jobs.specs import FigureSpec, SelectionMetric, TuneSpec, job_spec


def _train(workers: Any, batch: int = 8) -> dict[str, Any]:
    return {"name": "a", "scaling": {"workers": workers}, "schedule": {"batch_size": batch}}


def _tune(base: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "tune", "name": "search", "base": base, "space": {"bottleneck": [8]}}


@pytest.mark.parametrize(
    ("spec", "location", "pointer"),
    [
        (_train(9), ("train",), "scaling/workers"),
        (_train({"min": 9, "max": 10}), ("train",), "scaling/workers/max"),
        (_train({"min": 1, "max": 9}), ("train",), "scaling/workers/max"),
        (_tune(_train(9)), ("tune", "base"), "scaling/workers"),
        (_tune(_train({"min": 1, "max": 9})), ("tune", "base"), "scaling/workers/max"),
    ],
)
def test_more_workers_than_images_in_a_batch(spec: dict[str, Any], location: tuple[str, ...], pointer: str) -> None:
    with pytest.raises(ValidationError, match="more workers than images in a batch") as caught:
        job_spec.validate_python(spec)
    [error] = caught.value.errors()
    assert error["loc"] == location
    assert error["ctx"]["pointer"] == pointer


@pytest.mark.parametrize("workers", [8, {"min": 1, "max": 8}])
def test_as_many_workers_as_images_in_a_batch(workers: Any) -> None:
    spec = _train(workers)
    assert job_spec.validate_python(_tune(spec)).base == job_spec.validate_python(spec)  # type: ignore[union-attr]


def test_the_selection_metric_knows_its_direction() -> None:
    assert [(metric.higher_is_better, metric.mode) for metric in SelectionMetric] == [(False, "min"), (True, "max")]
    assert [metric.is_better(0.1, than=0.2) for metric in SelectionMetric] == [True, False]
    assert [metric.is_better(0.2, than=0.1) for metric in SelectionMetric] == [False, True]
    assert not any(metric.is_better(0.2, than=0.2) for metric in SelectionMetric)


def test_the_selection_metric_is_a_string_in_json() -> None:
    spec = job_spec.validate_python(_tune(_train(8)) | {"metric": "fg_ari"})
    assert isinstance(spec, TuneSpec)
    assert spec.metric is SelectionMetric.FG_ARI
    assert spec.model_dump(mode="json")["metric"] == "fg_ari"
    with pytest.raises(ValidationError, match="'test_mse' or 'fg_ari'"):
        job_spec.validate_python(_tune(_train(8)) | {"metric": "accuracy"})


def test_a_spec_is_read_back(tmp_path: Path) -> None:
    spec = job_spec.validate_python({"kind": "figure", "name": "f", "figure": "sample", "data": {"max_digits": 2}})
    assert isinstance(spec, FigureSpec)
    assert (spec.model, spec.scaling.min_workers) == ("champion", 1)
    folder = JobFolder(tmp_path)
    folder.write_spec(spec)
    assert folder.read_spec() == spec


@pytest.mark.parametrize("figure", [3, 11, "6", "noise", None])
def test_other_figures_are_refused(figure: object) -> None:
    with pytest.raises(ValueError, match="figure"):
        job_spec.validate_python({"kind": "figure", "name": "f", "figure": figure})
