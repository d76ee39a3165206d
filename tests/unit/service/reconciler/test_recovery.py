"""LOST and RETRY_WAIT: what a person may ask for meanwhile."""

from jobs.directory.records import Control
from service.job_state import State
from tests.control_plane import ControlPlane


def test_a_pause_of_a_lost_job_takes_it_off_the_cluster(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.die()
    plane.until(job_id, State.LOST)
    plane.service.pause(job_id)
    plane.tick(2)
    assert plane.state(job_id) == State.PAUSED
    assert driver.control == Control(attempt=2)
    plane.tick(20)
    assert plane.state(job_id) == State.PAUSED, "until it is resumed"


def test_a_lost_attempt_is_fenced_off_before_the_next_one_waits(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.die()
    plane.until(job_id, State.RETRY_WAIT)
    assert driver.control == Control(attempt=2)
    assert driver.name in plane.launcher.stopped


def test_a_retry_does_not_wait_out_the_back_off(plane: ControlPlane) -> None:
    plane.reconciler = plane.another_reconciler(retry_wait=3600.0, retry_wait_max=3600.0)
    job_id, driver = plane.running()
    driver.die()
    plane.until(job_id, State.RETRY_WAIT)
    plane.tick(5)
    assert plane.state(job_id) == State.RETRY_WAIT
    plane.service.retry(job_id)
    plane.tick(2)
    assert plane.state(job_id) == State.STARTING


def test_an_error_message_is_kept_up_to_a_bound(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.fail(message="x" * 20_000)
    plane.until(job_id, State.FAILED)
    error = plane.service.get(job_id).error
    assert error is not None
    assert error.message == "x" * 10_000
