"""Models that specs name, checked at submission against jobs in a database and a registry in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.interfaces import ModelVersion
from jobs.specs import TrainSpec, job_spec
from seqae.checkpoints import checkpoint
from seqae.config import TrainConfig
from seqae.model import SequentialAutoEncoder
from service.errors import FieldProblem, SpecRefusedError
from service.job_state import State
from service.scheduling.job_service import JobService
from service.scheduling.model_selectors import check
from tests.control_plane import ControlPlane

NOT_HERE = "there is no such job here"


def train(start_from: str | None, **model: Any) -> TrainSpec:
    return TrainSpec.model_validate({"name": "goes on", "start_from": start_from, "model": model})


@pytest.fixture
def ended(plane: ControlPlane) -> str:
    """A job of ada's with an 8 x 8 grid that has succeeded."""
    job_id, driver = plane.running({"model": {"attention": {"kernel_size": 8}}}, owner="ada")
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)
    return job_id


@pytest.fixture
def register(plane: ControlPlane, tmp_path: Path) -> Callable[..., Path]:
    """Puts a model with an 8 x 8 grid into the registry, as version 1 of `cells`; returns its folder."""

    def add() -> Path:
        path = tmp_path / "registered"
        config = TrainConfig.model_validate({"model": {"height": 32, "width": 32, "attention": {"kernel_size": 8}}})
        checkpoint.save(path, SequentialAutoEncoder(config.model), config, iteration=5, metrics={})
        plane.tracking.versions.append(ModelVersion("cells", "1", "run-9", "job_gone", path, {}, is_champion=True))
        plane.tracking.aliases["cells", "champion"] = "1"
        return path

    return add


def details(problems: tuple[FieldProblem, ...]) -> list[str]:
    assert {problem.pointer for problem in problems} <= {"#/start_from"}
    return [problem.detail for problem in problems]


def test_a_job_that_has_succeeded_is_started_from_where_its_weights_fit(plane: ControlPlane, ended: str) -> None:
    grid = {"kernel_size": 8}
    assert check(train(None), plane.store, plane.tracking) == ()
    assert check(train(ended, attention=grid, steps=9, height=48), plane.store, plane.tracking) == ()
    (detail,) = details(check(train(ended), plane.store, plane.tracking))
    assert detail == "that model has another model.attention.kernel_size: 8, where this run has 25"


def test_a_job_without_a_model_is_not_started_from(plane: ControlPlane) -> None:
    waiting = plane.submit()
    figure = plane.service.submit(job_spec.validate_python({"kind": "figure", "name": "f", "figure": 4})).id
    for job_id, why in ((waiting, "has not succeeded: it is QUEUED"), (figure, "makes no model")):
        (detail,) = details(check(train(job_id), plane.store, plane.tracking))
        assert why in detail
    (detail,) = details(check(train("job_0"), plane.store, plane.tracking))
    assert detail == "there is no such job or registered model here"


@pytest.mark.parametrize("selector", ["cells", "cells@champion", "cells/1", "job_gone"])
def test_a_registered_model_is_started_from_where_its_weights_fit(
    plane: ControlPlane, register: Callable[[], Path], selector: str
) -> None:
    register()
    assert check(train(selector, attention={"kernel_size": 8}), plane.store, plane.tracking) == ()
    (detail,) = details(check(train(selector, channels=3), plane.store, plane.tracking))
    assert detail.startswith("that model has another model.channels: 1")


@pytest.mark.parametrize("selector", ["cells/2", "cells@previous", "other", "champion", "7"])
def test_a_version_that_is_not_there_is_not_started_from(
    plane: ControlPlane, register: Callable[[], Path], selector: str
) -> None:
    register()
    (detail,) = details(check(train(selector), plane.store, plane.tracking))
    assert detail == "there is no such job or registered model here"


@pytest.mark.parametrize("content", ["{", "[]", '{"config": {"model": {"steps": "many"}}}', "[" * 100_000])
def test_a_model_of_another_release_or_a_damaged_one_is_refused_without_quoting_it(
    plane: ControlPlane, register: Callable[[], Path], content: str
) -> None:
    (register() / "config.json").write_text(content)
    (detail,) = details(check(train("cells"), plane.store, plane.tracking))
    assert detail == "that model can't be read by this release"


def test_a_registry_that_does_not_answer_refuses_nothing(plane: ControlPlane) -> None:
    plane.tracking.unreachable = True
    assert check(train("cells"), plane.store, plane.tracking) == ()
    assert check(train("cells"), plane.store, None) == ()


def test_where_jobs_are_private_nobody_elses_is_named(plane: ControlPlane, ended: str) -> None:
    fits = train(ended, attention={"kernel_size": 8})
    assert check(fits, plane.store, plane.tracking, "ada") == ()
    assert details(check(fits, plane.store, plane.tracking, "bob")) == [NOT_HERE]
    for model in (ended, f"{ended}/attempts/1/checkpoints/100", f"x/../{ended}", f"{plane.jobs_dir}/{ended}"):
        for kind, more in (("evaluate", {}), ("figure", {"figure": 7})):
            spec = job_spec.validate_python({"kind": kind, "name": "looks", "model": model} | more)
            assert check(spec, plane.store, plane.tracking, "ada") == ()
            assert check(spec, plane.store, plane.tracking, "bob") == (FieldProblem("#/model", NOT_HERE),)


def test_submission_and_dry_run_say_the_same(plane: ControlPlane, ended: str) -> None:
    monitor = plane.another_cluster_monitor()
    service = JobService(plane.store, monitor, plane.jobs_dir, plane.settings, registry=plane.tracking)
    for spec, owner in ((train(ended), None), (train("cells"), None), (train(ended), "bob")):
        with pytest.raises(SpecRefusedError) as caught:
            service.submit(spec, sees_only=owner)
        answer = service.validate(spec, owner)
        assert not answer.accepted
        found = [(one.pointer, one.detail) for one in answer.problems]
        assert found == [(one.pointer, one.detail) for one in caught.value.problems]
    fits = train(ended, attention={"kernel_size": 8})
    assert service.validate(fits).accepted
    assert service.get(service.submit(fits).id).spec == fits
