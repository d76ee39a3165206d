"""The reconciler against a fake cluster and a fake MLflow, with a clock of the test's own."""

import logging

import pytest

from jobs.interfaces import Capacity, NodeCapacity, RunStatus
from jobs.telemetry.log_records import current_job
from service.job_state import State
from tests.control_plane import ControlPlane


def test_a_job_goes_all_the_way(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.beat(50, loss=0.5)
    plane.tick()
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)
    plane.tick(2)
    job = plane.service.get(job_id)
    assert job.model is not None
    assert (job.attempt, job.model.version, job.metrics) == (1, "1", {"test/mse": 0.01})
    assert plane.path_of(job_id) == ["QUEUED", "SUBMITTING", "STARTING", "RUNNING", "FINALIZING", "SUCCEEDED"]
    assert plane.tracking.runs[f"run-{job_id}"].status is RunStatus.FINISHED
    assert plane.store.job(job_id).cleaned_up
    assert plane.launcher.submitted == [f"{job_id}-1"]


def test_a_job_that_waits_too_long_in_the_queue_fails(plane: ControlPlane) -> None:
    plane.reconciler = plane.another_reconciler(scheduling_deadline=60.0)
    plane.launcher.unreachable = True
    job_id = plane.submit()
    plane.until(job_id, State.FAILED, ticks=15, seconds=5)
    assert plane.error(job_id).error_class == "scheduling_deadline"


def test_two_reconcilers_at_once_do_everything_once(plane: ControlPlane) -> None:
    other_store = plane.another_store()
    other = plane.another_reconciler(other_store)
    jobs = [plane.submit({"scaling": {"workers": 1}}) for _ in range(2)]
    for _ in range(8):
        plane.tick()
        other.tick()
    assert sorted(plane.launcher.submitted) == sorted(f"{job_id}-1" for job_id in jobs)
    for job_id in jobs:
        plane.driver(job_id).beat(1)
    for _ in range(3):
        other.tick()
        plane.tick()
    for job_id in jobs:
        plane.driver(job_id).finish()
    for _ in range(6):
        other.tick()
        plane.tick()
    assert [plane.state(job_id) for job_id in jobs] == [State.SUCCEEDED] * 2
    assert len(plane.tracking.versions) == 2
    other_store.close()


def test_jobs_wait_for_room_and_go_by_priority(plane: ControlPlane) -> None:
    first = plane.submit()
    plane.until(first, State.STARTING)
    low, high = plane.submit(priority=0), plane.submit(priority=5)
    plane.tick(5)
    assert plane.state(low) == plane.state(high) == State.QUEUED
    plane.driver(first).finish()
    plane.until(high, State.STARTING)
    assert plane.state(low) == State.QUEUED


def test_a_lost_machine_does_not_fail_those_who_wait_for_it(plane: ControlPlane) -> None:
    job_id = plane.submit()
    plane.launcher.set_capacity(Capacity((NodeCapacity(cpus=1, gpus=0),)))
    small = plane.submit({"scaling": {"workers": 1}})
    plane.tick(10, seconds=10)
    assert plane.state(job_id) == State.QUEUED
    assert plane.state(small) == State.STARTING, "it is stepped over"
    plane.launcher.set_capacity(Capacity((NodeCapacity(cpus=4, gpus=0),)))
    plane.until(job_id, State.STARTING)


def test_a_step_that_breaks_does_not_stop_the_others(plane: ControlPlane, caplog: pytest.LogCaptureFixture) -> None:
    broken, driver = plane.running({"scaling": {"workers": 1}})
    (driver.folder.path / "metrics.jsonl").mkdir()
    fine = plane.submit({"scaling": {"workers": 1}})
    noted: list[str | None] = []

    def note(_record: logging.LogRecord) -> bool:
        noted.append(current_job.get())
        return True

    caplog.handler.addFilter(note)
    plane.until(fine, State.STARTING)
    assert "the step from RUNNING failed" in caplog.text
    assert set(noted) == {broken}, "what a log line in JSON has as its job"
    assert plane.state(broken) == State.RUNNING
