"""STARTING and RUNNING: the time limit."""

from jobs.directory.records import Outcome
from service.job_state import State
from tests.control_plane import ControlPlane


def test_a_pause_does_not_count_towards_the_time_limit(plane: ControlPlane) -> None:
    plane.reconciler = plane.another_reconciler(time_limit=60.0)
    job_id, driver = plane.running()
    plane.service.pause(job_id)
    plane.tick()
    driver.finish(Outcome.PAUSED)
    plane.until(job_id, State.PAUSED)
    plane.pass_(600)
    plane.service.resume(job_id)
    plane.until(job_id, State.STARTING)
    second = plane.driver(job_id)
    second.beat(2)
    plane.until(job_id, State.RUNNING)
    for iteration in range(3, 13):
        second.beat(iteration)
        plane.tick()
    assert plane.state(job_id) == State.RUNNING
    plane.until(job_id, State.CANCELLING, driver=second, ticks=70)
