"""STARTING and RUNNING: the time limit."""

from jobs.directory.records import Outcome, Phase, Want
from jobs.errors import ErrorClass
from jobs.interfaces import Capacity, NodeCapacity, RunStatus
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


def test_a_worker_lost_beyond_the_drivers_means_is_infrastructure(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.fail(ErrorClass.INFRASTRUCTURE, "workers were lost")
    plane.until(job_id, State.RETRY_WAIT)
    assert plane.error(job_id).message == "workers were lost"


def test_the_users_own_error_is_not_tried_again(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.fail(ErrorClass.DIVERGED, "the loss is NaN at iteration 7")
    plane.until(job_id, State.FAILED)
    plane.tick(2)
    error = plane.error(job_id)
    assert (error.error_class, error.message) == ("diverged", "the loss is NaN at iteration 7")
    assert plane.tracking.runs[f"run-{job_id}"].status is RunStatus.FAILED
    assert plane.launcher.submitted == [f"{job_id}-1"]


def test_an_error_of_a_driver_whose_cluster_died_under_it_is_not_its_own(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.launcher.unreachable = True
    driver.fail(ErrorClass.INTERNAL, "RuntimeError: the runtime has gone")
    plane.tick(10)
    assert plane.state(job_id) == State.RUNNING, "nobody knows yet whose fault it is"
    plane.launcher.unreachable = False
    plane.launcher.replace_cluster()
    plane.until(job_id, State.RETRY_WAIT, ticks=10)


def test_an_error_of_the_training_code_is_its_own(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.fail(ErrorClass.INTERNAL, "KeyError: 'x'")
    plane.until(job_id, State.FAILED, ticks=5)


def test_a_replaced_head_loses_the_job_only_after_its_orphan_must_be_dead(plane: ControlPlane) -> None:
    job_id, _ = plane.running()
    plane.launcher.replace_cluster()
    plane.tick(12, seconds=5)
    assert plane.state(job_id) == State.RUNNING
    plane.until(job_id, State.RETRY_WAIT, ticks=10)
    plane.until(job_id, State.STARTING)
    assert plane.launcher.submitted[-1] == f"{job_id}-2"


def test_an_orphan_that_finishes_is_believed(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.launcher.replace_cluster()
    plane.tick(30)
    driver.finish()
    plane.until(job_id, State.SUCCEEDED, ticks=5)
    assert plane.service.get(job_id).attempt == 1


def test_an_orphan_that_beats_is_not_lost(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.launcher.replace_cluster()
    for iteration in range(20):
        driver.beat(iteration)
        plane.tick(10)
    assert plane.state(job_id) == State.RUNNING


def test_an_unreachable_cluster_is_unknown_and_never_failed(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.launcher.unreachable = True
    plane.tick(60, seconds=60)
    assert plane.state(job_id) == State.RUNNING
    plane.launcher.unreachable = False
    driver.beat(50)
    plane.tick()
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)


def test_what_ended_while_nobody_could_look_is_found(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.launcher.unreachable = True
    plane.tick(20, seconds=5)
    plane.launcher.replace_cluster()
    plane.launcher.unreachable = False
    plane.until(job_id, State.RETRY_WAIT, ticks=10)
    assert driver.control.attempt == 2


def test_an_attempt_that_is_alive_but_gets_no_further_is_lost(plane: ControlPlane) -> None:
    plane.reconciler = plane.another_reconciler(stall_after=120.0)
    job_id, driver = plane.running()
    plane.until(job_id, State.RETRY_WAIT, driver=driver, ticks=30, seconds=5)
    assert driver.name in plane.launcher.stopped
    assert "no further" in plane.error(job_id).message


def test_a_job_that_the_cluster_never_starts_is_taken_back(plane: ControlPlane) -> None:
    job_id = plane.submit()
    plane.until(job_id, State.STARTING)
    plane.tick(30, seconds=30)
    plane.until(job_id, State.RETRY_WAIT, ticks=5)
    assert f"{job_id}-1" in plane.launcher.stopped


def test_a_time_limit_stops_the_job_and_fails_it(plane: ControlPlane) -> None:
    plane.reconciler = plane.another_reconciler(time_limit=30.0)
    job_id, driver = plane.running()
    plane.until(job_id, State.CANCELLING, driver=driver, ticks=40)
    plane.tick()
    assert driver.control.want is Want.CANCEL
    driver.finish(Outcome.CANCELLED)
    plane.until(job_id, State.FAILED, ticks=5)
    assert plane.error(job_id).error_class == "time_limit"


def test_a_death_is_explained_by_the_drivers_last_words(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.print("OSError: [Errno 28] No space left on device\n")
    driver.die()
    plane.until(job_id, State.FAILED)
    assert plane.error(job_id).error_class == "disk_full"
    assert b"No space left" in plane.service.logs(job_id).content


def test_a_job_that_lost_a_machine_says_that_it_waits_for_workers(plane: ControlPlane) -> None:
    """F12: it said RUNNING at iteration 70 for minutes."""
    job_id, driver = plane.running()
    driver.beat(70)
    plane.tick(2)
    plane.launcher.set_capacity(Capacity((NodeCapacity(cpus=1, gpus=0),)))
    for _ in range(40):
        driver.beat(70, moved=False)
        plane.tick()
    waiting = plane.service.get(job_id).waiting
    assert waiting is not None
    assert waiting.reason == "workers"
    assert waiting.missing == "2 workers of 1 CPUs each; the machines that are left have room for 1"
    plane.launcher.set_capacity(Capacity((NodeCapacity(cpus=2, gpus=0),)))
    driver.beat(71)
    plane.tick(2)
    assert plane.service.get(job_id).waiting is None
    told = [event.data["for"] for event in plane.service.events(job_id=job_id, limit=500) if event.type == "waiting"]
    assert told == ["workers", None]


def test_a_search_by_eye_says_that_it_waits_for_people(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    since = None
    for missing in (3, 3, 2):
        driver.beat(4, comparisons_missing=missing)
        plane.tick()
        waiting = plane.service.get(job_id).waiting
        assert waiting is not None
        assert waiting.reason == "comparisons"
        assert waiting.missing.startswith(f"{missing} comparisons of trials: `seqae compare {job_id}`")
        since = since or waiting.since
        assert waiting.since == since
    driver.beat(4)
    plane.tick(2)
    assert plane.service.get(job_id).waiting is None
    told = [event.data["for"] for event in plane.service.events(job_id=job_id, limit=500) if event.type == "waiting"]
    assert told == ["comparisons", None]
    driver.beat(4, comparisons_missing=2)
    plane.tick()
    assert plane.service.pause(job_id).state is State.PAUSING
    assert plane.service.get(job_id).waiting is None


def test_a_job_whose_workers_are_not_placed_says_so(plane: ControlPlane) -> None:
    """F12: its driver beats, and no worker has begun."""
    job_id = plane.submit()
    plane.until(job_id, State.STARTING)
    driver = plane.driver(job_id)
    for _ in range(40):
        driver.beat(0, Phase.STARTING, moved=False)
        plane.tick()
    waiting = plane.service.get(job_id).waiting
    assert waiting is not None
    assert "a place for 2 workers" in waiting.missing
    for _ in range(40):
        driver.beat(0, Phase.DATA, moved=False)
        plane.tick()
    assert plane.service.get(job_id).waiting is None, "building data takes long, and is no waiting"
