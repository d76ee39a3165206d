"""Leftovers of crashes: what the garbage collector removes, and what it leaves alone."""

from jobs.interfaces import ProcessState, RunStatus
from service.job_state import State
from tests.control_plane import ControlPlane


def test_the_sweep_stops_a_stale_attempt_that_woke_up(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.launcher.replace_cluster()
    plane.until(job_id, State.STARTING)
    # The first attempt's submission reaches the new head late.
    plane.launcher.submit(plane.launcher.submissions[driver.name])
    assert driver.control.attempt == 2, "it finds itself fenced"
    plane.reconciler.sweep()
    assert plane.launcher.live() == {f"{job_id}-2"}


def test_the_sweep_closes_runs_that_were_opened_again(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)
    plane.tick(3)
    plane.tracking.runs[f"run-{job_id}"].status = None
    plane.reconciler.sweep()
    assert plane.tracking.runs[f"run-{job_id}"].status is RunStatus.FINISHED


def test_the_sweep_leaves_other_peoples_processes_alone(plane: ControlPlane) -> None:
    plane.launcher._states["somebody-elses"] = ProcessState.RUNNING
    plane.tracking.create_run("job_of_another_database", "theirs", "train", {})
    plane.reconciler.sweep()
    assert plane.launcher.stopped == []
    assert len(plane.tracking.open_runs()) == 1


def test_old_progress_is_forgotten_and_transitions_are_not(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)
    before = plane.path_of(job_id)
    assert any(event.type == "progress" for event in plane.store.events(job_id=job_id))
    plane.pass_(4 * 24 * 3600)
    plane.reconciler.sweep()
    assert not any(event.type == "progress" for event in plane.store.events(job_id=job_id))
    assert plane.path_of(job_id) == before
