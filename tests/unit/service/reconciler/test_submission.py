"""SUBMITTING: what may go wrong between asking the cluster and writing down that it was asked."""

from datetime import timedelta

from jobs.interfaces import Submission
from service.db.leases import Leases
from service.job_state import State
from tests.control_plane import ControlPlane


def test_a_submission_that_outlives_its_lease_changes_nothing(plane: ControlPlane) -> None:
    """The one that took the row over decides; the late answer must not move the job under its feet."""
    job_id = plane.submit()
    other = Leases(plane.another_store(), "other")
    submit = plane.launcher.submit

    def slow_submit(submission: Submission) -> None:
        submit(submission)
        plane.now += timedelta(seconds=plane.settings.lease_for + 1)
        assert [job.id for job in other.claim(15, limit=1)] == [job_id]

    plane.launcher.submit = slow_submit  # type: ignore[method-assign]  # a cluster that takes longer than the lease
    plane.tick()
    job = plane.store.job(job_id)
    assert (job.state, job.lease_owner) == (State.SUBMITTING, "other")


def test_a_second_attempt_starts_with_no_sign_of_life_of_the_first(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.beat(7)
    driver.folder.add_metrics(7, {"test/mse": 0.5})
    plane.tick()
    driver.die()
    plane.until(job_id, State.RETRY_WAIT)
    plane.until(job_id, State.QUEUED)
    plane.reconciler.admit()
    assert plane.state(job_id) == State.SUBMITTING
    job = plane.store.job(job_id)
    assert (job.attempt, job.last_seen_at, job.last_progress_at, job.event_cursor) == (2, None, None, None)
    plane.until(job_id, State.STARTING)
    second = plane.driver(job_id)
    second.beat(9)
    second.folder.add_metrics(9, {"test/mse": 0.4})
    plane.tick()
    events = plane.store.events(job_id=job_id)
    evaluations = [(event.data["attempt"], event.data["step"]) for event in events if event.type == "metrics"]
    assert evaluations == [(1, 7), (2, 9)]
