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


def test_the_driver_gets_its_run_and_the_environment(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    submission = plane.launcher.submissions[driver.name]
    assert submission.environment["SEQAE_RUN_ID"] == f"run-{job_id}"
    assert submission.environment["SEQAE_JOB_ID"] == job_id
    assert submission.job_dir == plane.jobs_dir / job_id
    assert driver.job_folder.read_spec().name == "scenes"
    run = plane.tracking.runs[f"run-{job_id}"]
    assert "model.steps" not in run.params, "what is at its default"
    assert run.details.experiment == "seqae-mnist_scenes"
    assert run.details.owner == plane.service.get(job_id).owner
    assert "steps: 6" in run.details.config


def test_mlflow_down_at_submission_only_delays(plane: ControlPlane) -> None:
    plane.tracking.unreachable = True
    job_id = plane.submit()
    plane.tick(10, seconds=6)
    assert plane.state(job_id) == State.SUBMITTING
    assert plane.launcher.submitted == []
    plane.tracking.unreachable = False
    plane.until(job_id, State.STARTING, ticks=10)


def test_a_lost_answer_to_submit_is_adopted(plane: ControlPlane) -> None:
    plane.launcher.loses_answers = True
    job_id = plane.submit()
    plane.tick(2)
    assert plane.state(job_id) == State.SUBMITTING
    assert plane.launcher.submitted == [f"{job_id}-1"]
    plane.launcher.loses_answers = False
    plane.until(job_id, State.STARTING)
    assert plane.launcher.submitted == [f"{job_id}-1"]


def test_the_api_killed_between_writing_and_asking_goes_on(plane: ControlPlane) -> None:
    job_id = plane.submit()
    plane.reconciler.admit()
    attempt = plane.store.attempt(job_id, 1)
    assert (plane.state(job_id), attempt.submission_id) == (State.SUBMITTING, f"{job_id}-1")
    # Killed here; another process comes up.
    plane.reconciler = plane.another_reconciler()
    plane.until(job_id, State.STARTING)
    assert plane.launcher.submitted == [f"{job_id}-1"]


def test_the_api_killed_after_asking_adopts_what_runs(plane: ControlPlane) -> None:
    job_id = plane.submit()
    plane.launcher.loses_answers = True
    plane.tick(2)
    plane.launcher.run(f"{job_id}-1")
    plane.launcher.loses_answers = False
    plane.reconciler = plane.another_reconciler()
    plane.until(job_id, State.STARTING)
    assert plane.launcher.submitted == [f"{job_id}-1"]


def test_an_attempt_that_has_run_is_not_started_again_whatever_the_cluster_remembers(plane: ControlPlane) -> None:
    plane.launcher.loses_answers = True
    job_id = plane.submit()
    plane.tick(2)
    plane.driver(job_id).beat(1)
    plane.launcher.vanish(f"{job_id}-1")
    plane.launcher.loses_answers = False
    plane.until(job_id, State.RETRY_WAIT)
    assert plane.launcher.submitted == [f"{job_id}-1"]


def test_a_head_replaced_while_it_was_asked_gets_another_number(plane: ControlPlane) -> None:
    plane.launcher.loses_answers = True
    job_id = plane.submit()
    plane.tick(2)
    plane.launcher.loses_answers = False
    plane.launcher.replace_cluster()
    plane.until(job_id, State.STARTING)
    assert plane.launcher.submitted == [f"{job_id}-1", f"{job_id}-2"], "one number never runs twice"


def test_a_refused_submission_fails_with_the_clusters_reason(plane: ControlPlane) -> None:
    plane.launcher.refusal = "runtime_env is not valid"
    job_id = plane.submit()
    plane.until(job_id, State.FAILED)
    assert plane.error(job_id).message == "runtime_env is not valid"
