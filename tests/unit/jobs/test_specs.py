"""What the wire format takes and what it refuses by itself, whatever the cluster."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.directory.layout import JobFolder
from jobs.search.settings import Scheduler
from jobs.specs import (
    EvaluateSpec,
    FigureSpec,
    SelectionMetric,
    TrainSpec,
    TuneSpec,
    job_spec,
    makes_model,
    model_name,
)


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
    assert list(SelectionMetric) == [SelectionMetric.OBJECTIVE, SelectionMetric.MSE, SelectionMetric.FG_ARI]
    assert [metric.higher_is_better for metric in SelectionMetric] == [False, False, True]
    assert [metric.mode for metric in SelectionMetric] == ["min", "min", "max"]
    assert [metric.is_better(0.1, than=0.2) for metric in SelectionMetric] == [True, True, False]
    assert [metric.is_better(0.2, than=0.1) for metric in SelectionMetric] == [False, False, True]
    assert not any(metric.is_better(0.2, than=0.2) for metric in SelectionMetric)


def test_the_selection_metric_is_a_string_in_json() -> None:
    spec = job_spec.validate_python(_tune(_train(8)) | {"metric": "val/fg_ari"})
    assert isinstance(spec, TuneSpec)
    assert spec.metric is SelectionMetric.FG_ARI
    assert spec.model_dump(mode="json")["metric"] == "val/fg_ari"
    with pytest.raises(ValidationError, match="'objective', 'val/mse' or 'val/fg_ari'"):
        job_spec.validate_python(_tune(_train(8)) | {"metric": "accuracy"})


def test_a_search_is_for_the_objective_and_never_for_a_test_metric() -> None:
    """F1: a search's winner was chosen on the test scenes that were then reported."""
    spec = job_spec.validate_python(_tune(_train(8)))
    assert isinstance(spec, TuneSpec)
    assert spec.metric is SelectionMetric.OBJECTIVE
    assert [metric.row_name for metric in SelectionMetric] == ["val/objective", "val/mse", "val/fg_ari"]
    with pytest.raises(ValidationError):
        job_spec.validate_python(_tune(_train(8)) | {"metric": "test/mse"})


def test_a_search_by_eye_has_people_for_its_objective() -> None:
    spec = job_spec.validate_python(_tune(_train(8)) | {"objective": "human"})
    assert isinstance(spec, TuneSpec)
    assert spec.goals == {"human/score": True}
    assert (spec.stops_by, spec.most_comparisons) == (Scheduler.NONE, 16)
    plain = job_spec.validate_python(_tune(_train(8)))
    assert isinstance(plain, TuneSpec)
    assert (plain.is_by_eye, plain.most_comparisons, plain.stops_by) == (False, 0, Scheduler.ASHA)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"comparisons": 5, "objective": "metrics"}, "comparisons"),
        ({"objectives": ["val/mse"]}, "objectives"),
        ({"scheduler": "asha"}, "scheduler"),
        ({"sampler": "cma-es"}, "sampler"),
        ({"sampler": "nsga-ii"}, "sampler"),
        ({"seeds": 2}, "seeds"),
        ({"warm_start": "job_1"}, "warm_start"),
        ({"trials": 1}, "trials"),
        ({"sampler": "grid"}, "trials"),  # of one point
    ],
)
def test_what_people_cannot_judge_is_refused(fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ValidationError) as refused:
        job_spec.validate_python(_tune(_train(8)) | {"objective": "human"} | fields)
    (error,) = refused.value.errors()
    assert error["ctx"]["pointer"] == pointer


@pytest.mark.parametrize(("old", "metric"), [("test_mse", SelectionMetric.MSE), ("fg_ari", SelectionMetric.FG_ARI)])
def test_the_metrics_of_older_releases_are_still_read(old: str, metric: SelectionMetric) -> None:
    fields = _tune(_train(8)) | {"metric": old}
    for spec in (job_spec.validate_python(fields), job_spec.validate_json(json.dumps(fields))):
        assert isinstance(spec, TuneSpec)
        assert spec.metric is metric


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


def _numbers(schema: Any, at: str = "#") -> list[tuple[str, dict[str, Any]]]:
    """Every schema of a number below one, but those that name their values."""
    if isinstance(schema, list):
        return [found for index, item in enumerate(schema) for found in _numbers(item, f"{at}/{index}")]
    if not isinstance(schema, dict):
        return []
    own = [(at, schema)] if schema.get("type") in ("integer", "number") and not {"enum", "const"} & set(schema) else []
    return own + [found for key, item in schema.items() for found in _numbers(item, f"{at}/{key}")]


def test_every_number_of_every_spec_has_both_bounds() -> None:
    """C2, C5: a number without a bound becomes an error of something deeper, such as Ray, torch or the database."""
    numbers = _numbers(job_spec.json_schema())
    assert len(numbers) > 40
    for at, schema in numbers:
        lower = schema.get("minimum", schema.get("exclusiveMinimum"))
        upper = schema.get("maximum", schema.get("exclusiveMaximum"))
        assert lower is not None, f"{at} has no lower bound"
        assert upper is not None, f"{at} has no upper bound"
        assert abs(lower) <= 2**31, at
        assert abs(upper) <= 2**31, at
        if schema["type"] == "number":
            assert "exclusiveMinimum" not in schema, f"{at} takes 5e-324"


@pytest.mark.parametrize("value", [5e-324, 0.00001, -1, 0, 10**400, 1e300, True, "1"])
def test_a_share_of_a_cpu_is_as_fine_as_the_clusters(value: object) -> None:
    """C2, C3: Ray counts CPUs to 0.0001; anything finer it refuses, again and again."""
    with pytest.raises(ValidationError, match="cpus_per_worker"):
        job_spec.validate_python({"name": "a", "scaling": {"cpus_per_worker": value}})


def test_a_gpu_is_whole_or_shared_by_one_worker() -> None:
    """C2: NCCL refuses two workers on one GPU, and a worker uses no second one."""
    for scaling in ({"gpus_per_worker": 2}, {"gpus_per_worker": 1e-9}, {"gpus_per_worker": 0.5, "workers": 2}):
        with pytest.raises(ValidationError) as caught:
            job_spec.validate_python({"name": "a", "scaling": scaling})
        [error] = caught.value.errors()
        assert "gpus_per_worker" in (error["loc"][-1], error.get("ctx", {}).get("pointer"))
    for scaling in ({"gpus_per_worker": 1, "workers": 2}, {"gpus_per_worker": 0.5}, {"gpus_per_worker": 0}):
        job_spec.validate_python({"name": "a", "scaling": scaling})


@pytest.mark.parametrize(
    "spec",
    [
        {"seed": True},
        {"seed": "1"},
        {"model": {"steps": False}},
        {"model": {"channels": True}},
        {"model": {"localizer": {"sizes": [20, True]}}},
        {"scaling": {"workers": True}},
        {"scaling": {"workers": {"min": True, "max": 2}}},
        {"schedule": {"epochs": True}},
        {"schedule": {"growth": [{"iteration": False, "steps": 6}]}},
        {"data": {"kind": "images", "path": "x", "train_images": 10**400}},
        {"data": {"kind": "images", "path": "nul\0"}},
        {"data": {"kind": "images", "path": "x", "annotations": "nul\0"}},
        {"model": {"attention": {"delta_min": 1e300, "delta_max": 1e300}}},
    ],
)
def test_numbers_are_numbers(spec: dict[str, Any]) -> None:
    """C5: truth values, texts and numbers beyond all measure are refused where they stand."""
    with pytest.raises(ValidationError):
        job_spec.validate_python({"name": "a"} | spec)


def test_whole_floats_are_integers() -> None:
    """F5: 2e2 is 200."""
    spec = job_spec.validate_python({"name": "a", "schedule": {"batch_size": 2e2, "epochs": 3}})
    assert isinstance(spec, TrainSpec)
    assert (spec.schedule.batch_size, spec.schedule.epochs) == (200, 3.0)


@pytest.mark.parametrize("name", ["digits", "seqae-mnist_scenes", "a.b-c_d"])
def test_a_result_is_registered_under_the_name_that_the_spec_gives(name: str) -> None:
    spec = job_spec.validate_python({"name": "a", "register_as": name})
    assert isinstance(spec, TrainSpec)
    assert model_name(spec) == name


@pytest.mark.parametrize(
    "name", ["champion", "challenger", "previous", "12", "job_0a1b2c3d4e5f", "A", "a/b", "a@b", ""]
)
def test_a_models_name_is_no_other_selector(name: str) -> None:
    """F1: where a model is asked for, these mean an alias, a version or a job."""
    with pytest.raises(ValidationError, match="register_as"):
        job_spec.validate_python({"name": "a", "register_as": name})


def test_an_evaluation_names_a_model_and_perhaps_other_images() -> None:
    spec = job_spec.validate_python({"kind": "evaluate", "name": "e", "data": {"max_digits": 2}, "figures": [7]})
    assert isinstance(spec, EvaluateSpec)
    assert (spec.model, spec.scenes, spec.figures, spec.scaling.max_workers) == ("champion", None, (7,), 1)
    assert job_spec.validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "fields", [{"scenes": 0}, {"figures": [3]}, {"model": ""}, {"scaling": {}}, {"checkpoint": "x"}]
)
def test_other_evaluations_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        job_spec.validate_python({"kind": "evaluate", "name": "e"} | fields)


@pytest.mark.parametrize(
    "fields",
    [{"job": ""}, {"job": "../job_1"}, {"job": "job_1/attempts"}, {"reports": 0}, {"start": -1}, {"tolerance": 0}],
)
def test_other_verifications_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        job_spec.validate_python({"kind": "verify", "name": "v", "job": "job_1"} | fields)


def test_only_training_and_searches_make_models() -> None:
    assert [kind for kind in ("train", "tune", "figure", "evaluate", "verify") if makes_model(kind)] == [
        "train",
        "tune",
    ]
