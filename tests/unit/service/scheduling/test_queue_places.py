"""Places of queued jobs as clients see them, and jobs that make room for others."""

from typing import Any

from jobs.directory.records import Outcome, Want
from jobs.specs import job_spec
from service.job_state import State
from tests.control_plane import ControlPlane


def _spec(workers: int) -> Any:
    return job_spec.validate_python({"name": "x", "scaling": {"workers": workers}})


def _room(plane: ControlPlane) -> int:
    return int(plane.launcher.capacity().cpus)


def test_a_job_that_has_no_room_says_so_with_its_place(plane: ControlPlane) -> None:
    first = plane.service.submit(_spec(_room(plane)))
    plane.until(first.id, State.STARTING)
    plane.driver(first.id).beat(1, eta_seconds=120.0)
    plane.until(first.id, State.RUNNING)
    second, third = (plane.service.submit(_spec(1)) for _ in range(2))
    plane.tick()
    waiting = plane.service.get(third.id).waiting
    assert waiting is not None
    assert (waiting.reason, waiting.position, waiting.starts_in_seconds) == ("place", 2, 120.0)
    assert waiting.missing == "1 worker with 1 CPUs, of which 0 are free"
    listed = {job.id: job.waiting for job in plane.service.list().items}
    assert listed[first.id] is None
    assert listed[second.id] is not None


def test_while_the_cluster_does_not_answer_no_place_is_known(plane: ControlPlane) -> None:
    plane.launcher.unreachable = True
    job = plane.service.submit(_spec(1))
    assert plane.service.get(job.id).waiting is None


def test_a_job_makes_room_for_one_of_higher_priority_and_goes_on_afterwards(plane: ControlPlane) -> None:
    plane.reconciler = plane.another_reconciler(preemption=True)
    low = plane.service.submit(_spec(_room(plane)), priority=0)
    plane.until(low.id, State.STARTING)
    driver = plane.driver(low.id)
    driver.beat(10)
    plane.until(low.id, State.RUNNING)
    high = plane.service.submit(_spec(1), priority=7)
    plane.until(low.id, State.PAUSING)
    plane.tick(2)
    assert driver.control.want is Want.PAUSE
    driver.checkpoint(10)
    driver.finish(Outcome.PAUSED)
    plane.until(low.id, State.QUEUED)
    plane.until(high.id, State.STARTING)
    job = plane.service.get(low.id)
    assert (job.retries, job.losses, job.desired) == (0, 0, "run")
    reasons = [event.data.get("reason") for event in plane.service.events(job_id=low.id) if event.type == "transition"]
    assert f"makes room for job {high.id} of priority 7" in reasons
    plane.driver(high.id).beat(1)
    plane.until(high.id, State.RUNNING)
    plane.driver(high.id).finish()
    plane.until(high.id, State.SUCCEEDED)
    plane.until(low.id, State.STARTING)
    assert plane.service.get(low.id).attempt == 2


def test_nobody_makes_room_where_that_is_not_allowed(plane: ControlPlane) -> None:
    low = plane.service.submit(_spec(_room(plane)), priority=0)
    plane.until(low.id, State.STARTING)
    plane.driver(low.id).beat(10)
    plane.until(low.id, State.RUNNING)
    plane.service.submit(_spec(1), priority=7)
    plane.tick(3)
    assert plane.state(low.id) == State.RUNNING
