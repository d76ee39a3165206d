"""PAUSING and CANCELLING: what the attempt is told, and which end the job comes to."""

from jobs.directory.records import Control, Outcome, Want
from service.job_state import State
from tests.control_plane import ControlPlane


def test_a_paused_job_has_fenced_off_its_attempt(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.service.pause(job_id)
    plane.tick()
    assert driver.control == Control(attempt=1, want=Want.PAUSE)
    driver.finish(Outcome.PAUSED)
    plane.until(job_id, State.PAUSED)
    assert driver.control == Control(attempt=2), "if it wakes up it must see that it is over"


def test_a_cancel_while_the_time_limit_stops_the_job_wins(plane: ControlPlane) -> None:
    plane.reconciler = plane.another_reconciler(time_limit=30.0)
    job_id, driver = plane.running()
    plane.until(job_id, State.CANCELLING, driver=driver, ticks=40)
    plane.service.cancel(job_id)
    driver.finish(Outcome.CANCELLED)
    plane.until(job_id, State.CANCELLED, ticks=5)


def test_a_cancelled_job_has_fenced_off_its_attempt(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.service.cancel(job_id)
    plane.tick()
    assert driver.control == Control(attempt=1, want=Want.CANCEL)
    driver.finish(Outcome.CANCELLED)
    plane.until(job_id, State.CANCELLED)
    assert driver.control == Control(attempt=2, want=Want.CANCEL)
