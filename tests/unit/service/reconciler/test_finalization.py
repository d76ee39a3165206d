"""FINALIZING and ended jobs: what MLflow gets, and what is left behind."""

from pathlib import Path

import pytest

from jobs.directory.records import Control, Outcome, Result, Shipped, Want
from jobs.errors import TrackingUnavailable
from jobs.interfaces import Capacity, NodeCapacity, RunStatus
from jobs.specs import job_spec
from service.job_state import EventType, State
from tests.control_plane import ControlPlane


def _damage(plane: ControlPlane, job_id: str) -> None:
    driver = plane.driver(job_id)
    driver.finish()
    (driver.folder.checkpoints / "100" / "model.safetensors").write_bytes(b"torn")


def test_a_result_that_is_damaged_every_time_ends_the_job(plane: ControlPlane) -> None:
    plane.reconciler = plane.another_reconciler(max_losses=2, retry_wait=0.0)
    job_id, _ = plane.running()
    for attempt in (1, 2, 3):
        plane.until(job_id, State.RUNNING if attempt == 1 else State.STARTING)
        assert plane.store.job(job_id).attempt == attempt
        _damage(plane, job_id)
        plane.until(job_id, State.LOST)
    plane.until(job_id, State.FAILED, ticks=3)
    error = plane.service.get(job_id).error
    assert error is not None
    assert error.error_class == "checkpoint"
    assert plane.tracking.versions == []
    registry = plane.reconciler.metrics.registry
    assert registry.get_sample_value("seqae_attempts_lost_total", {"error_class": "checkpoint"}) == 3


def test_a_cancel_that_comes_while_metrics_are_shipped_registers_nothing(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    ship = plane.tracking.ship

    def ship_and_cancel(job_dir: Path, run_id: str) -> None:
        ship(job_dir, run_id)
        if plane.state(job_id) == State.FINALIZING:
            plane.service.cancel(job_id)

    plane.tracking.ship = ship_and_cancel  # type: ignore[method-assign]  # a person who is just in time
    driver.finish()
    plane.until(job_id, State.CANCELLED)
    assert plane.tracking.versions == []
    assert plane.tracking.runs[f"run-{job_id}"].status is RunStatus.KILLED


def test_nothing_is_cleaned_up_while_the_cluster_is_silent(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.finish(leave=False)
    plane.until(job_id, State.SUCCEEDED)
    plane.launcher.unreachable = True
    plane.tick(30)
    assert not plane.store.job(job_id).cleaned_up, "its driver may still be there"
    plane.launcher.unreachable = False
    plane.tick(30)
    assert plane.store.job(job_id).cleaned_up
    assert driver.name in plane.launcher.stopped


def test_the_rest_of_the_metrics_is_shipped_whatever_the_end(plane: ControlPlane) -> None:
    failed, driver = plane.running()
    driver.fail()
    plane.until(failed, State.FAILED)
    cancelled, driver = plane.running()
    plane.service.cancel(cancelled)
    driver.finish(Outcome.CANCELLED)
    plane.until(cancelled, State.CANCELLED)
    for job_id in (failed, cancelled):
        assert plane.jobs_dir / job_id in plane.tracking.runs[f"run-{job_id}"].shipped


def test_an_ended_job_has_fenced_off_its_attempt(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)
    plane.tick(2)
    assert driver.control == Control(attempt=2, want=Want.CANCEL)


def test_a_job_that_waits_for_mlflow_holds_no_place_on_the_cluster(plane: ControlPlane) -> None:
    plane.launcher.set_capacity(Capacity((NodeCapacity(cpus=2, gpus=0),)))
    plane.reconciler = plane.another_reconciler(max_concurrent_jobs=1)
    job_id, driver = plane.running()
    plane.tracking.unreachable = True
    driver.finish()
    plane.until(job_id, State.FINALIZING)
    following = plane.submit()
    plane.tick(3)
    assert plane.state(job_id) == State.FINALIZING
    assert plane.state(following) == State.SUBMITTING


def test_a_run_that_mlflow_has_lost_is_made_again_and_gets_everything(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.tracking.forget_runs()
    driver.job_folder.write_shipped(Shipped(run_id=f"run-{job_id}", steps={"train/loss": 5}))
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)
    run = plane.tracking.runs[f"run-{job_id}"]
    assert (run.status, run.shipped != []) == (RunStatus.FINISHED, True)
    assert driver.job_folder.read_shipped() == Shipped(), "what the lost run had is sent again"
    assert [version.job_id for version in plane.tracking.versions] == [job_id]


@pytest.mark.parametrize("spec", [{"kind": "figure", "figure": 4}, {"kind": "evaluate", "model": "digits/3"}])
def test_a_figure_and_an_evaluation_succeed_without_a_model(plane: ControlPlane, spec: dict[str, object]) -> None:
    job_id = plane.service.submit(job_spec.validate_python(spec | {"name": "f"})).id
    plane.until(job_id, State.STARTING)
    driver = plane.driver(job_id)
    assert plane.launcher.submissions[driver.name].kind == spec["kind"]
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)
    assert plane.service.get(job_id).model is None
    assert plane.tracking.versions == []
    assert plane.tracking.runs[f"run-{job_id}"].status is RunStatus.FINISHED


def test_a_training_result_without_a_model_is_not_a_success(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.folder.write_result(Result(outcome=Outcome.SUCCEEDED))
    plane.until(job_id, State.RETRY_WAIT)
    assert plane.tracking.versions == []


def test_mlflow_down_does_not_lose_a_finished_model(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.tracking.unreachable = True
    driver.finish()
    plane.tick(20, seconds=30)
    assert plane.state(job_id) == State.FINALIZING
    plane.tracking.unreachable = False
    plane.until(job_id, State.SUCCEEDED, ticks=10)
    assert len(plane.tracking.versions) == 1


def test_mlflow_down_does_not_hold_up_a_cancel(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.tracking.unreachable = True
    plane.service.cancel(job_id)
    plane.tick()
    driver.finish(Outcome.CANCELLED)
    plane.until(job_id, State.CANCELLED, ticks=5)
    plane.tick(10)
    assert not plane.store.job(job_id).cleaned_up
    plane.tracking.unreachable = False
    plane.tick(10)
    assert plane.store.job(job_id).cleaned_up
    assert plane.tracking.runs[f"run-{job_id}"].status is RunStatus.KILLED


def test_a_damaged_final_checkpoint_is_made_again(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.finish()
    (driver.folder.checkpoints / "100" / "model.safetensors").write_bytes(b"torn")
    plane.until(job_id, State.RETRY_WAIT)
    assert plane.tracking.versions == []
    plane.until(job_id, State.STARTING)
    plane.driver(job_id).finish()
    plane.until(job_id, State.SUCCEEDED)
    assert len(plane.tracking.versions) == 1


def test_a_cancel_while_the_model_is_being_saved_is_obeyed(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.tracking.unreachable = True
    driver.finish()
    plane.until(job_id, State.FINALIZING)
    plane.service.cancel(job_id)
    plane.tick(2)
    assert plane.state(job_id) == State.CANCELLED
    plane.tracking.unreachable = False
    plane.tick(20)
    assert plane.tracking.versions == []
    assert plane.tracking.runs[f"run-{job_id}"].status is RunStatus.KILLED


def test_a_driver_that_lingers_after_its_end_is_stopped(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.finish(leave=False)
    plane.until(job_id, State.SUCCEEDED)
    plane.tick(5)
    assert plane.launcher.stopped == []
    plane.tick(10)
    assert plane.launcher.live() == set()
    assert plane.store.job(job_id).cleaned_up


def test_the_best_of_three_jobs_on_different_numbers_of_scenes_is_the_champion(plane: ControlPlane) -> None:
    """F1: what a model was trained on does not matter; the test images are the same."""
    ids = []
    for scenes, mse in ((100, 0.3), (200, 0.1), (300, 0.2)):
        job_id, driver = plane.running({"data": {"train_scenes": scenes}})
        driver.finish(mse=mse)
        plane.until(job_id, State.SUCCEEDED)
        ids.append(job_id)
    assert plane.tracking.resolve("champion").job_id == ids[1]
    first, second, third = [plane.service.get(job_id).promotion for job_id in ids]
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.promoted, second.promoted, third.promoted) == (True, True, False)
    assert second.reason.startswith("better than seqae-mnist_scenes/1 by more than the standard error")
    assert third.against == "seqae-mnist_scenes/2"
    assert third.scores["champion"]["test/mse"] == pytest.approx(0.1)
    events = [event for event in plane.store.events(job_id=ids[2]) if event.type == EventType.PROMOTION]
    assert [(event.data["promoted"], event.data["version"]) for event in events] == [(False, "3")]
    last = [event for event in plane.store.events(job_id=ids[1]) if event.type == EventType.TRANSITION][-1]
    assert "the champion now" in last.data["reason"]


def test_a_crash_after_the_model_was_registered_decides_nothing_anew(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    close_run = plane.tracking.close_run

    def fail_once(run_id: str, status: RunStatus) -> None:
        plane.tracking.close_run = close_run  # type: ignore[method-assign]
        raise TrackingUnavailable("just now")

    driver.finish()
    plane.until(job_id, State.FINALIZING)
    plane.tracking.close_run = fail_once  # type: ignore[method-assign]  # MLflow goes away between two calls
    plane.until(job_id, State.SUCCEEDED)
    assert len(plane.tracking.versions) == 1
    events = [event for event in plane.store.events(job_id=job_id) if event.type == EventType.PROMOTION]
    assert len(events) == 1


def test_a_spec_that_names_a_model_gets_it(plane: ControlPlane) -> None:
    job_id, driver = plane.running({"register_as": "my-digits"})
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)
    model = plane.service.get(job_id).model
    assert model is not None
    assert (model.name, model.version) == ("my-digits", "1")
