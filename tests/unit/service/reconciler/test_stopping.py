"""PAUSING and CANCELLING: what the attempt is told, and which end the job comes to."""

import pytest

from jobs.directory.records import Control, Outcome, Want
from jobs.interfaces import RunStatus
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


@pytest.mark.parametrize(
    "state", [State.QUEUED, State.SUBMITTING, State.STARTING, State.RUNNING, State.LOST, State.RETRY_WAIT, State.PAUSED]
)
def test_cancel_in_each_state_leaves_nothing(plane: ControlPlane, state: State) -> None:
    job_id = _bring_to(plane, state)
    plane.service.cancel(job_id)
    for _ in range(60):
        plane.tick()
        if plane.state(job_id) == State.CANCELLED and plane.store.job(job_id).cleaned_up:
            break
    assert plane.state(job_id) == State.CANCELLED
    assert plane.launcher.live() == set()
    assert all(run.status is RunStatus.KILLED for run in plane.tracking.runs.values())


def test_a_cancel_is_asked_for_first_and_forced_after_the_grace_time(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.service.cancel(job_id)
    for iteration in range(29):
        driver.beat(iteration)
        plane.tick()
    assert driver.control.want is Want.CANCEL
    assert plane.launcher.stopped == []
    plane.tick(3)
    assert plane.launcher.stopped[:1] == [driver.name]
    assert plane.state(job_id) == State.CANCELLED


def test_a_pause_keeps_what_was_reached_and_a_resume_goes_on(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.service.pause(job_id)
    plane.tick()
    assert driver.control.want is Want.PAUSE
    driver.finish(Outcome.PAUSED)
    plane.until(job_id, State.PAUSED, ticks=5)
    plane.tick(10, seconds=10)
    assert plane.state(job_id) == State.PAUSED
    plane.service.resume(job_id)
    plane.until(job_id, State.STARTING)
    second = plane.driver(job_id)
    assert (second.name, second.control.want) == (f"{job_id}-2", Want.RUN)
    second.finish()
    plane.until(job_id, State.SUCCEEDED)
    assert [attempt.outcome for attempt in plane.service.attempts(job_id)] == ["paused", "succeeded"]


def test_a_resume_before_the_pause_is_through_is_not_forgotten(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.service.pause(job_id)
    plane.tick()
    plane.service.resume(job_id)
    driver.finish(Outcome.PAUSED)
    plane.until(job_id, State.STARTING, ticks=10)


def test_a_job_that_finishes_while_it_is_asked_to_pause_succeeds(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.service.pause(job_id)
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)


def _bring_to(plane: ControlPlane, state: State) -> str:
    if state == State.QUEUED:
        plane.launcher.unreachable = True
        job_id = plane.submit()
        plane.tick(2)
        plane.launcher.unreachable = False
        return job_id
    if state == State.SUBMITTING:
        plane.launcher.loses_answers = True
        job_id = plane.submit()
        plane.tick(2)
        plane.launcher.loses_answers = False
        return job_id
    if state == State.STARTING:
        job_id = plane.submit()
        plane.until(job_id, State.STARTING)
        return job_id
    job_id, driver = plane.running()
    if state == State.PAUSED:
        plane.service.pause(job_id)
        driver.finish(Outcome.PAUSED)
    elif state != State.RUNNING:
        driver.die()
    plane.until(job_id, state)
    return job_id
