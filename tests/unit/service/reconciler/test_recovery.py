"""LOST and RETRY_WAIT: what a person may ask for meanwhile."""

from jobs.directory.records import Control
from jobs.errors import ErrorClass
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


def test_a_killed_driver_is_tried_again_without_spending_retries(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.die()
    plane.until(job_id, State.LOST)
    plane.until(job_id, State.RETRY_WAIT)
    assert driver.control.attempt == 2, "the lost attempt is fenced off"
    plane.until(job_id, State.STARTING)
    second = plane.driver(job_id)
    assert second.name == f"{job_id}-2"
    second.beat(2)
    plane.until(job_id, State.RUNNING)
    second.finish()
    plane.until(job_id, State.SUCCEEDED)
    job = plane.service.get(job_id)
    assert (job.losses, job.retries, job.attempt, job.error) == (1, 0, 2, None)
    assert [attempt.outcome for attempt in plane.service.attempts(job_id)] == ["lost", "succeeded"]
    assert len(plane.tracking.runs) == 1, "all attempts share one run"


def test_retries_are_spent_on_the_users_own_errors(plane: ControlPlane) -> None:
    plane.reconciler = plane.another_reconciler(max_retries=1)
    job_id, driver = plane.running()
    driver.fail(ErrorClass.OUT_OF_MEMORY)
    plane.until(job_id, State.STARTING)
    plane.driver(job_id).fail(ErrorClass.OUT_OF_MEMORY)
    plane.until(job_id, State.FAILED)
    job = plane.service.get(job_id)
    assert (job.attempt, job.retries, job.losses) == (2, 1, 0)


def test_losses_are_bounded(plane: ControlPlane) -> None:
    plane.reconciler = plane.another_reconciler(max_losses=2)
    job_id = plane.submit()
    for _ in range(3):
        plane.until(job_id, State.STARTING)
        plane.driver(job_id).die()
        plane.until(job_id, State.LOST)
        plane.tick()
    assert plane.state(job_id) == State.FAILED
    assert plane.service.get(job_id).losses == 3


def test_waits_between_attempts_double_until_one_gets_further(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    waits = []
    for iteration in (10, 10, 10, 20):
        driver.beat(iteration)
        plane.tick()
        driver.die()
        plane.until(job_id, State.RETRY_WAIT)
        due = plane.store.job(job_id).not_before
        assert due is not None
        waits.append((due - plane.now).total_seconds())
        plane.until(job_id, State.STARTING)
        driver = plane.driver(job_id)
        driver.beat(1)
        plane.until(job_id, State.RUNNING)
    expected = [2, 4, 8, 2]
    assert all(0.7 * wait <= seen <= 1.3 * wait for wait, seen in zip(expected, waits, strict=True)), waits
