"""The reconciler against a fake cluster and a fake MLflow, with a clock of the test's own."""

import pytest

from jobs.directory.records import NoteKind, Outcome, Result, Want
from jobs.errors import ErrorClass
from jobs.interfaces import Capacity, NodeCapacity, ProcessState, RunStatus
from jobs.specs import job_spec
from service.job_state import State
from tests.control_plane import ControlPlane


def test_a_job_goes_all_the_way(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.beat(50, loss=0.5)
    plane.tick()
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)
    plane.tick(2)
    job = plane.service.get(job_id)
    assert job.model is not None
    assert (job.attempt, job.model.version, job.metrics) == (1, "1", {"test_mse": 0.01})
    assert plane.path_of(job_id) == ["QUEUED", "SUBMITTING", "STARTING", "RUNNING", "FINALIZING", "SUCCEEDED"]
    assert plane.tracking.runs[f"run-{job_id}"].status is RunStatus.FINISHED
    assert plane.store.job(job_id).cleaned_up
    assert plane.launcher.submitted == [f"{job_id}-1"]


def test_a_figure_succeeds_without_a_model(plane: ControlPlane) -> None:
    job_id = plane.service.submit(job_spec.validate_python({"kind": "figure", "name": "f", "figure": 4})).id
    plane.until(job_id, State.STARTING)
    driver = plane.driver(job_id)
    assert plane.launcher.submissions[driver.name].kind == "figure"
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)
    assert plane.service.get(job_id).model is None
    assert plane.tracking.versions == []
    assert plane.tracking.runs[f"run-{job_id}"].status is RunStatus.FINISHED


def test_a_training_result_without_a_model_is_not_a_success(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.folder.write_result(Result(outcome=Outcome.SUCCEEDED))
    plane.until(job_id, State.RETRY_WAIT)
    assert plane.tracking.versions == []


def test_the_driver_gets_its_run_and_the_environment(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    submission = plane.launcher.submissions[driver.name]
    assert submission.environment["SEQAE_RUN_ID"] == f"run-{job_id}"
    assert submission.job_dir == plane.jobs_dir / job_id
    assert driver.job_folder.read_spec().name == "scenes"
    assert plane.tracking.runs[f"run-{job_id}"].params["model.steps"] == 6


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


def test_mlflow_down_does_not_lose_a_finished_model(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.tracking.unreachable = True
    driver.finish()
    plane.tick(20, seconds=30)
    assert plane.state(job_id) == State.FINALIZING
    plane.tracking.unreachable = False
    plane.until(job_id, State.SUCCEEDED, ticks=10)
    assert len(plane.tracking.versions) == 1


def test_mlflow_down_at_submission_only_delays(plane: ControlPlane) -> None:
    plane.tracking.unreachable = True
    job_id = plane.submit()
    plane.tick(10, seconds=6)
    assert plane.state(job_id) == State.SUBMITTING
    assert plane.launcher.submitted == []
    plane.tracking.unreachable = False
    plane.until(job_id, State.STARTING, ticks=10)


def test_mlflow_down_does_not_hold_up_a_cancel(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.tracking.unreachable = True
    plane.service.cancel(job_id)
    plane.tick()
    driver.finish(Outcome.CANCELLED)
    plane.until(job_id, State.CANCELLED, ticks=5)
    plane.tick(10)
    assert not plane.store.job(job_id).cleaned_up
    plane.tracking.unreachable = False
    plane.tick(10)
    assert plane.store.job(job_id).cleaned_up
    assert plane.tracking.runs[f"run-{job_id}"].status is RunStatus.KILLED


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


def test_a_job_that_waits_too_long_in_the_queue_fails(plane: ControlPlane) -> None:
    plane.reconciler = plane.another_reconciler(scheduling_deadline=60.0)
    plane.launcher.unreachable = True
    job_id = plane.submit()
    plane.until(job_id, State.FAILED, ticks=15, seconds=5)
    assert plane.error(job_id).error_class == "scheduling_deadline"


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


def test_a_damaged_final_checkpoint_is_made_again(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.finish()
    (driver.folder.checkpoints / "100" / "model.safetensors").write_bytes(b"torn")
    plane.until(job_id, State.RETRY_WAIT)
    assert plane.tracking.versions == []
    plane.until(job_id, State.STARTING)
    plane.driver(job_id).finish()
    plane.until(job_id, State.SUCCEEDED)
    assert len(plane.tracking.versions) == 1


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


def test_a_cancel_while_the_model_is_being_saved_is_obeyed(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.tracking.unreachable = True
    driver.finish()
    plane.until(job_id, State.FINALIZING)
    plane.service.cancel(job_id)
    plane.tick(2)
    assert plane.state(job_id) == State.CANCELLED
    plane.tracking.unreachable = False
    plane.tick(20)
    assert plane.tracking.versions == []
    assert plane.tracking.runs[f"run-{job_id}"].status is RunStatus.KILLED


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


def test_two_reconcilers_at_once_do_everything_once(plane: ControlPlane) -> None:
    other_store = plane.another_store()
    other = plane.another_reconciler(other_store)
    jobs = [plane.submit({"scaling": {"workers": 1}}) for _ in range(2)]
    for _ in range(8):
        plane.tick()
        other.tick()
    assert sorted(plane.launcher.submitted) == sorted(f"{job_id}-1" for job_id in jobs)
    for job_id in jobs:
        plane.driver(job_id).beat(1)
    for _ in range(3):
        other.tick()
        plane.tick()
    for job_id in jobs:
        plane.driver(job_id).finish()
    for _ in range(6):
        other.tick()
        plane.tick()
    assert [plane.state(job_id) for job_id in jobs] == [State.SUCCEEDED] * 2
    assert len(plane.tracking.versions) == 2
    other_store.close()


def test_jobs_wait_for_room_and_go_by_priority(plane: ControlPlane) -> None:
    first = plane.submit()
    plane.until(first, State.STARTING)
    low, high = plane.submit(priority=0), plane.submit(priority=5)
    plane.tick(5)
    assert plane.state(low) == plane.state(high) == State.QUEUED
    plane.driver(first).finish()
    plane.until(high, State.STARTING)
    assert plane.state(low) == State.QUEUED


def test_a_lost_machine_does_not_fail_those_who_wait_for_it(plane: ControlPlane) -> None:
    job_id = plane.submit()
    plane.launcher.set_capacity(Capacity((NodeCapacity(cpus=1, gpus=0),)))
    small = plane.submit({"scaling": {"workers": 1}})
    plane.tick(10, seconds=10)
    assert plane.state(job_id) == State.QUEUED
    assert plane.state(small) == State.STARTING, "it is stepped over"
    plane.launcher.set_capacity(Capacity((NodeCapacity(cpus=4, gpus=0),)))
    plane.until(job_id, State.STARTING)


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


def test_a_driver_that_lingers_after_its_end_is_stopped(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.finish(leave=False)
    plane.until(job_id, State.SUCCEEDED)
    plane.tick(5)
    assert plane.launcher.stopped == []
    plane.tick(10)
    assert plane.launcher.live() == set()
    assert plane.store.job(job_id).cleaned_up


def test_a_step_that_breaks_does_not_stop_the_others(plane: ControlPlane, caplog: pytest.LogCaptureFixture) -> None:
    broken, driver = plane.running({"scaling": {"workers": 1}})
    (driver.folder.path / "metrics.jsonl").mkdir()
    fine = plane.submit({"scaling": {"workers": 1}})
    plane.until(fine, State.STARTING)
    assert "the step from RUNNING failed" in caplog.text
    assert plane.state(broken) == State.RUNNING


def test_progress_evaluations_frames_and_notes_become_events_once(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.beat(10, loss=0.5)
    driver.folder.add_metrics(10, {"train/loss": 0.5})
    driver.folder.add_metrics(10, {"test/mse": 0.02})
    driver.folder.frames.mkdir()
    (driver.folder.frames / "10.png").write_bytes(b"png")
    driver.folder.add_note(NoteKind.WORKERS_LOST, "worker 1 died")
    plane.tick(3)
    plane.reconciler = plane.another_reconciler()
    driver.beat(11)
    plane.tick(5)
    events = plane.store.events(job_id=job_id)
    told = [(event.type, event.data.get("step")) for event in events if event.type in ("metrics", "frame")]
    assert told == [("metrics", 10), ("frame", 10)]
    assert [event.data["text"] for event in events if event.type == "notice"] == ["worker 1 died"]
    progress = [event.data["iteration"] for event in events if event.type == "progress"]
    assert progress == sorted(set(progress))
    assert progress[-1] == 11


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
