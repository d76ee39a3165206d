"""The reconciler against a fake cluster and a fake MLflow, with a clock of the test's own."""

from typing import Any

import pytest

from jobs.directory.records import NoteKind, Outcome, Result, Want
from jobs.errors import ErrorClass
from jobs.interfaces import Capacity, NodeCapacity, ProcessState, RunStatus
from jobs.specs import job_spec
from service.job_state import State

World = Any
"""`World` of conftest.py, which a test module can't import."""


def test_a_job_goes_all_the_way(world: World) -> None:
    job_id, driver = world.running()
    driver.beat(50, loss=0.5)
    world.tick()
    driver.finish()
    world.until(job_id, State.SUCCEEDED)
    world.tick(2)
    job = world.service.get(job_id)
    assert job.model is not None
    assert (job.attempt, job.model.version, job.metrics) == (1, "1", {"test_mse": 0.01})
    assert world.path_of(job_id) == ["QUEUED", "SUBMITTING", "STARTING", "RUNNING", "FINALIZING", "SUCCEEDED"]
    assert world.tracking.runs[f"run-{job_id}"].status is RunStatus.FINISHED
    assert world.store.job(job_id).cleaned_up
    assert world.launcher.submitted == [f"{job_id}-1"]


def test_a_figure_succeeds_without_a_model(world: World) -> None:
    job_id = world.service.submit(job_spec.validate_python({"kind": "figure", "name": "f", "figure": 4})).id
    world.until(job_id, State.STARTING)
    driver = world.driver(job_id)
    assert world.launcher.submissions[driver.name].kind == "figure"
    driver.finish()
    world.until(job_id, State.SUCCEEDED)
    assert world.service.get(job_id).model is None
    assert world.tracking.versions == []
    assert world.tracking.runs[f"run-{job_id}"].status is RunStatus.FINISHED


def test_a_training_result_without_a_model_is_not_a_success(world: World) -> None:
    job_id, driver = world.running()
    driver.folder.write_result(Result(outcome=Outcome.SUCCEEDED))
    world.until(job_id, State.RETRY_WAIT)
    assert world.tracking.versions == []


def test_the_driver_gets_its_run_and_the_environment(world: World) -> None:
    job_id, driver = world.running()
    submission = world.launcher.submissions[driver.name]
    assert submission.environment["SEQAE_RUN_ID"] == f"run-{job_id}"
    assert submission.job_dir == world.jobs_dir / job_id
    assert driver.job_folder.read_spec().name == "scenes"
    assert world.tracking.runs[f"run-{job_id}"].params["model.steps"] == 6


def test_a_killed_driver_is_tried_again_without_spending_retries(world: World) -> None:
    job_id, driver = world.running()
    driver.die()
    world.until(job_id, State.LOST)
    world.until(job_id, State.RETRY_WAIT)
    assert driver.control.attempt == 2, "the lost attempt is fenced off"
    world.until(job_id, State.STARTING)
    second = world.driver(job_id)
    assert second.name == f"{job_id}-2"
    second.beat(2)
    world.until(job_id, State.RUNNING)
    second.finish()
    world.until(job_id, State.SUCCEEDED)
    job = world.service.get(job_id)
    assert (job.losses, job.retries, job.attempt, job.error) == (1, 0, 2, None)
    assert [attempt.outcome for attempt in world.service.attempts(job_id)] == ["lost", "succeeded"]
    assert len(world.tracking.runs) == 1, "all attempts share one run"


def test_a_worker_lost_beyond_the_drivers_means_is_infrastructure(world: World) -> None:
    job_id, driver = world.running()
    driver.fail(ErrorClass.INFRASTRUCTURE, "workers were lost")
    world.until(job_id, State.RETRY_WAIT)
    assert world.service.get(job_id).error.message == "workers were lost"


def test_the_users_own_error_is_not_tried_again(world: World) -> None:
    job_id, driver = world.running()
    driver.fail(ErrorClass.DIVERGED, "the loss is NaN at iteration 7")
    world.until(job_id, State.FAILED)
    world.tick(2)
    job = world.service.get(job_id)
    assert (job.error.error_class, job.error.message) == ("diverged", "the loss is NaN at iteration 7")
    assert world.tracking.runs[f"run-{job_id}"].status is RunStatus.FAILED
    assert world.launcher.submitted == [f"{job_id}-1"]


def test_an_error_of_a_driver_whose_cluster_died_under_it_is_not_its_own(world: World) -> None:
    job_id, driver = world.running()
    world.launcher.unreachable = True
    driver.fail(ErrorClass.INTERNAL, "RuntimeError: the runtime has gone")
    world.tick(10)
    assert world.state(job_id) == State.RUNNING, "nobody knows yet whose fault it is"
    world.launcher.unreachable = False
    world.launcher.replace_cluster()
    world.until(job_id, State.RETRY_WAIT, ticks=10)


def test_an_error_of_the_training_code_is_its_own(world: World) -> None:
    job_id, driver = world.running()
    driver.fail(ErrorClass.INTERNAL, "KeyError: 'x'")
    world.until(job_id, State.FAILED, ticks=5)


def test_retries_are_spent_on_the_users_own_errors(world: World) -> None:
    world.reconciler = world.another_reconciler(max_retries=1)
    job_id, driver = world.running()
    driver.fail(ErrorClass.OUT_OF_MEMORY)
    world.until(job_id, State.STARTING)
    world.driver(job_id).fail(ErrorClass.OUT_OF_MEMORY)
    world.until(job_id, State.FAILED)
    job = world.service.get(job_id)
    assert (job.attempt, job.retries, job.losses) == (2, 1, 0)


def test_losses_are_bounded(world: World) -> None:
    world.reconciler = world.another_reconciler(max_losses=2)
    job_id = world.submit()
    for _ in range(3):
        world.until(job_id, State.STARTING)
        world.driver(job_id).die()
        world.until(job_id, State.LOST)
        world.tick()
    assert world.state(job_id) == State.FAILED
    assert world.service.get(job_id).losses == 3


def test_waits_between_attempts_double_until_one_gets_further(world: World) -> None:
    job_id, driver = world.running()
    waits = []
    for iteration in (10, 10, 10, 20):
        driver.beat(iteration)
        world.tick()
        driver.die()
        world.until(job_id, State.RETRY_WAIT)
        waits.append((world.store.job(job_id).not_before - world.now).total_seconds())
        world.until(job_id, State.STARTING)
        driver = world.driver(job_id)
        driver.beat(1)
        world.until(job_id, State.RUNNING)
    expected = [2, 4, 8, 2]
    assert all(0.7 * wait <= seen <= 1.3 * wait for wait, seen in zip(expected, waits, strict=True)), waits


def test_a_replaced_head_loses_the_job_only_after_its_orphan_must_be_dead(world: World) -> None:
    job_id, _ = world.running()
    world.launcher.replace_cluster()
    world.tick(12, seconds=5)
    assert world.state(job_id) == State.RUNNING
    world.until(job_id, State.RETRY_WAIT, ticks=10)
    world.until(job_id, State.STARTING)
    assert world.launcher.submitted[-1] == f"{job_id}-2"


def test_an_orphan_that_finishes_is_believed(world: World) -> None:
    job_id, driver = world.running()
    world.launcher.replace_cluster()
    world.tick(30)
    driver.finish()
    world.until(job_id, State.SUCCEEDED, ticks=5)
    assert world.service.get(job_id).attempt == 1


def test_an_orphan_that_beats_is_not_lost(world: World) -> None:
    job_id, driver = world.running()
    world.launcher.replace_cluster()
    for iteration in range(20):
        driver.beat(iteration)
        world.tick(10)
    assert world.state(job_id) == State.RUNNING


def test_an_unreachable_cluster_is_unknown_and_never_failed(world: World) -> None:
    job_id, driver = world.running()
    world.launcher.unreachable = True
    world.tick(60, seconds=60)
    assert world.state(job_id) == State.RUNNING
    world.launcher.unreachable = False
    driver.beat(50)
    world.tick()
    driver.finish()
    world.until(job_id, State.SUCCEEDED)


def test_what_ended_while_nobody_could_look_is_found(world: World) -> None:
    job_id, driver = world.running()
    world.launcher.unreachable = True
    world.tick(20, seconds=5)
    world.launcher.replace_cluster()
    world.launcher.unreachable = False
    world.until(job_id, State.RETRY_WAIT, ticks=10)
    assert driver.control.attempt == 2


def test_mlflow_down_does_not_lose_a_finished_model(world: World) -> None:
    job_id, driver = world.running()
    world.tracking.unreachable = True
    driver.finish()
    world.tick(20, seconds=30)
    assert world.state(job_id) == State.FINALIZING
    world.tracking.unreachable = False
    world.until(job_id, State.SUCCEEDED, ticks=10)
    assert len(world.tracking.versions) == 1


def test_mlflow_down_at_submission_only_delays(world: World) -> None:
    world.tracking.unreachable = True
    job_id = world.submit()
    world.tick(10, seconds=6)
    assert world.state(job_id) == State.SUBMITTING
    assert world.launcher.submitted == []
    world.tracking.unreachable = False
    world.until(job_id, State.STARTING, ticks=10)


def test_mlflow_down_does_not_hold_up_a_cancel(world: World) -> None:
    job_id, driver = world.running()
    world.tracking.unreachable = True
    world.service.cancel(job_id)
    world.tick()
    driver.finish(Outcome.CANCELLED)
    world.until(job_id, State.CANCELLED, ticks=5)
    world.tick(10)
    assert not world.store.job(job_id).cleaned_up
    world.tracking.unreachable = False
    world.tick(10)
    assert world.store.job(job_id).cleaned_up
    assert world.tracking.runs[f"run-{job_id}"].status is RunStatus.KILLED


def test_a_lost_answer_to_submit_is_adopted(world: World) -> None:
    world.launcher.loses_answers = True
    job_id = world.submit()
    world.tick(2)
    assert world.state(job_id) == State.SUBMITTING
    assert world.launcher.submitted == [f"{job_id}-1"]
    world.launcher.loses_answers = False
    world.until(job_id, State.STARTING)
    assert world.launcher.submitted == [f"{job_id}-1"]


def test_the_api_killed_between_writing_and_asking_goes_on(world: World) -> None:
    job_id = world.submit()
    world.reconciler.admit()
    attempt = world.store.attempt(job_id, 1)
    assert (world.state(job_id), attempt.submission_id) == (State.SUBMITTING, f"{job_id}-1")
    # Killed here; another process comes up.
    world.reconciler = world.another_reconciler()
    world.until(job_id, State.STARTING)
    assert world.launcher.submitted == [f"{job_id}-1"]


def test_the_api_killed_after_asking_adopts_what_runs(world: World) -> None:
    job_id = world.submit()
    world.launcher.loses_answers = True
    world.tick(2)
    world.launcher.run(f"{job_id}-1")
    world.launcher.loses_answers = False
    world.reconciler = world.another_reconciler()
    world.until(job_id, State.STARTING)
    assert world.launcher.submitted == [f"{job_id}-1"]


def test_an_attempt_that_has_run_is_not_started_again_whatever_the_cluster_remembers(world: World) -> None:
    world.launcher.loses_answers = True
    job_id = world.submit()
    world.tick(2)
    world.driver(job_id).beat(1)
    world.launcher.vanish(f"{job_id}-1")
    world.launcher.loses_answers = False
    world.until(job_id, State.RETRY_WAIT)
    assert world.launcher.submitted == [f"{job_id}-1"]


def test_a_head_replaced_while_it_was_asked_gets_another_number(world: World) -> None:
    world.launcher.loses_answers = True
    job_id = world.submit()
    world.tick(2)
    world.launcher.loses_answers = False
    world.launcher.replace_cluster()
    world.until(job_id, State.STARTING)
    assert world.launcher.submitted == [f"{job_id}-1", f"{job_id}-2"], "one number never runs twice"


def test_a_refused_submission_fails_with_the_clusters_reason(world: World) -> None:
    world.launcher.refusal = "runtime_env is not valid"
    job_id = world.submit()
    world.until(job_id, State.FAILED)
    assert world.service.get(job_id).error.message == "runtime_env is not valid"


def test_an_attempt_that_is_alive_but_gets_no_further_is_lost(world: World) -> None:
    world.reconciler = world.another_reconciler(stall_after=120.0)
    job_id, driver = world.running()
    world.until(job_id, State.RETRY_WAIT, driver=driver, ticks=30, seconds=5)
    assert driver.name in world.launcher.stopped
    assert "no further" in world.service.get(job_id).error.message


def test_a_job_that_the_cluster_never_starts_is_taken_back(world: World) -> None:
    job_id = world.submit()
    world.until(job_id, State.STARTING)
    world.tick(30, seconds=30)
    world.until(job_id, State.RETRY_WAIT, ticks=5)
    assert f"{job_id}-1" in world.launcher.stopped


def test_a_job_that_waits_too_long_in_the_queue_fails(world: World) -> None:
    world.reconciler = world.another_reconciler(scheduling_deadline=60.0)
    world.launcher.unreachable = True
    job_id = world.submit()
    world.until(job_id, State.FAILED, ticks=15, seconds=5)
    assert world.service.get(job_id).error.error_class == "scheduling_deadline"


def test_a_time_limit_stops_the_job_and_fails_it(world: World) -> None:
    world.reconciler = world.another_reconciler(time_limit=30.0)
    job_id, driver = world.running()
    world.until(job_id, State.CANCELLING, driver=driver, ticks=40)
    world.tick()
    assert driver.control.want is Want.CANCEL
    driver.finish(Outcome.CANCELLED)
    world.until(job_id, State.FAILED, ticks=5)
    assert world.service.get(job_id).error.error_class == "time_limit"


def test_a_death_is_explained_by_the_drivers_last_words(world: World) -> None:
    job_id, driver = world.running()
    driver.print("OSError: [Errno 28] No space left on device\n")
    driver.die()
    world.until(job_id, State.FAILED)
    assert world.service.get(job_id).error.error_class == "disk_full"
    assert b"No space left" in world.service.logs(job_id).content


def test_a_damaged_final_checkpoint_is_made_again(world: World) -> None:
    job_id, driver = world.running()
    driver.finish()
    (driver.folder.checkpoints / "100" / "model.safetensors").write_bytes(b"torn")
    world.until(job_id, State.RETRY_WAIT)
    assert world.tracking.versions == []
    world.until(job_id, State.STARTING)
    world.driver(job_id).finish()
    world.until(job_id, State.SUCCEEDED)
    assert len(world.tracking.versions) == 1


@pytest.mark.parametrize(
    "state", [State.QUEUED, State.SUBMITTING, State.STARTING, State.RUNNING, State.LOST, State.RETRY_WAIT, State.PAUSED]
)
def test_cancel_in_each_state_leaves_nothing(world: World, state: State) -> None:
    job_id = _bring_to(world, state)
    world.service.cancel(job_id)
    for _ in range(60):
        world.tick()
        if world.state(job_id) == State.CANCELLED and world.store.job(job_id).cleaned_up:
            break
    assert world.state(job_id) == State.CANCELLED
    assert world.launcher.live() == set()
    assert all(run.status is RunStatus.KILLED for run in world.tracking.runs.values())


def test_a_cancel_while_the_model_is_being_saved_is_obeyed(world: World) -> None:
    job_id, driver = world.running()
    world.tracking.unreachable = True
    driver.finish()
    world.until(job_id, State.FINALIZING)
    world.service.cancel(job_id)
    world.tick(2)
    assert world.state(job_id) == State.CANCELLED
    world.tracking.unreachable = False
    world.tick(20)
    assert world.tracking.versions == []
    assert world.tracking.runs[f"run-{job_id}"].status is RunStatus.KILLED


def test_a_cancel_is_asked_for_first_and_forced_after_the_grace_time(world: World) -> None:
    job_id, driver = world.running()
    world.service.cancel(job_id)
    for iteration in range(29):
        driver.beat(iteration)
        world.tick()
    assert driver.control.want is Want.CANCEL
    assert world.launcher.stopped == []
    world.tick(3)
    assert world.launcher.stopped[:1] == [driver.name]
    assert world.state(job_id) == State.CANCELLED


def test_a_pause_keeps_what_was_reached_and_a_resume_goes_on(world: World) -> None:
    job_id, driver = world.running()
    world.service.pause(job_id)
    world.tick()
    assert driver.control.want is Want.PAUSE
    driver.finish(Outcome.PAUSED)
    world.until(job_id, State.PAUSED, ticks=5)
    world.tick(10, seconds=10)
    assert world.state(job_id) == State.PAUSED
    world.service.resume(job_id)
    world.until(job_id, State.STARTING)
    second = world.driver(job_id)
    assert (second.name, second.control.want) == (f"{job_id}-2", Want.RUN)
    second.finish()
    world.until(job_id, State.SUCCEEDED)
    assert [attempt.outcome for attempt in world.service.attempts(job_id)] == ["paused", "succeeded"]


def test_a_resume_before_the_pause_is_through_is_not_forgotten(world: World) -> None:
    job_id, driver = world.running()
    world.service.pause(job_id)
    world.tick()
    world.service.resume(job_id)
    driver.finish(Outcome.PAUSED)
    world.until(job_id, State.STARTING, ticks=10)


def test_a_job_that_finishes_while_it_is_asked_to_pause_succeeds(world: World) -> None:
    job_id, driver = world.running()
    world.service.pause(job_id)
    driver.finish()
    world.until(job_id, State.SUCCEEDED)


def test_two_reconcilers_at_once_do_everything_once(world: World) -> None:
    other_store = world.another_store()
    other = world.another_reconciler(other_store)
    jobs = [world.submit({"scaling": {"workers": 1}}) for _ in range(2)]
    for _ in range(8):
        world.tick()
        other.tick()
    assert sorted(world.launcher.submitted) == sorted(f"{job_id}-1" for job_id in jobs)
    for job_id in jobs:
        world.driver(job_id).beat(1)
    for _ in range(3):
        other.tick()
        world.tick()
    for job_id in jobs:
        world.driver(job_id).finish()
    for _ in range(6):
        other.tick()
        world.tick()
    assert [world.state(job_id) for job_id in jobs] == [State.SUCCEEDED] * 2
    assert len(world.tracking.versions) == 2
    other_store.close()


def test_jobs_wait_for_room_and_go_by_priority(world: World) -> None:
    first = world.submit()
    world.until(first, State.STARTING)
    low, high = world.submit(priority=0), world.submit(priority=5)
    world.tick(5)
    assert world.state(low) == world.state(high) == State.QUEUED
    world.driver(first).finish()
    world.until(high, State.STARTING)
    assert world.state(low) == State.QUEUED


def test_a_lost_machine_does_not_fail_those_who_wait_for_it(world: World) -> None:
    job_id = world.submit()
    world.launcher.set_capacity(Capacity((NodeCapacity(cpus=1, gpus=0),)))
    small = world.submit({"scaling": {"workers": 1}})
    world.tick(10, seconds=10)
    assert world.state(job_id) == State.QUEUED
    assert world.state(small) == State.STARTING, "it is stepped over"
    world.launcher.set_capacity(Capacity((NodeCapacity(cpus=4, gpus=0),)))
    world.until(job_id, State.STARTING)


def test_the_sweep_stops_a_stale_attempt_that_woke_up(world: World) -> None:
    job_id, driver = world.running()
    world.launcher.replace_cluster()
    world.until(job_id, State.STARTING)
    # The first attempt's submission reaches the new head late.
    world.launcher.submit(world.launcher.submissions[driver.name])
    assert driver.control.attempt == 2, "it finds itself fenced"
    world.reconciler.sweep()
    assert world.launcher.live() == {f"{job_id}-2"}


def test_the_sweep_closes_runs_that_were_opened_again(world: World) -> None:
    job_id, driver = world.running()
    driver.finish()
    world.until(job_id, State.SUCCEEDED)
    world.tick(3)
    world.tracking.runs[f"run-{job_id}"].status = None
    world.reconciler.sweep()
    assert world.tracking.runs[f"run-{job_id}"].status is RunStatus.FINISHED


def test_the_sweep_leaves_other_peoples_processes_alone(world: World) -> None:
    world.launcher._states["somebody-elses"] = ProcessState.RUNNING
    world.tracking.create_run("job_of_another_database", "theirs", "train", {})
    world.reconciler.sweep()
    assert world.launcher.stopped == []
    assert len(world.tracking.open_runs()) == 1


def test_a_driver_that_lingers_after_its_end_is_stopped(world: World) -> None:
    job_id, driver = world.running()
    driver.finish(leave=False)
    world.until(job_id, State.SUCCEEDED)
    world.tick(5)
    assert world.launcher.stopped == []
    world.tick(10)
    assert world.launcher.live() == set()
    assert world.store.job(job_id).cleaned_up


def test_a_step_that_breaks_does_not_stop_the_others(world: World, caplog: pytest.LogCaptureFixture) -> None:
    broken, driver = world.running({"scaling": {"workers": 1}})
    (driver.folder.path / "metrics.jsonl").mkdir()
    fine = world.submit({"scaling": {"workers": 1}})
    world.until(fine, State.STARTING)
    assert "the step from RUNNING failed" in caplog.text
    assert world.state(broken) == State.RUNNING


def test_progress_evaluations_frames_and_notes_become_events_once(world: World) -> None:
    job_id, driver = world.running()
    driver.beat(10, loss=0.5)
    driver.folder.add_metrics(10, {"train/loss": 0.5})
    driver.folder.add_metrics(10, {"test/mse": 0.02})
    driver.folder.frames.mkdir()
    (driver.folder.frames / "10.png").write_bytes(b"png")
    driver.folder.add_note(NoteKind.WORKERS_LOST, "worker 1 died")
    world.tick(3)
    world.reconciler = world.another_reconciler()
    driver.beat(11)
    world.tick(5)
    events = world.store.events(job_id=job_id)
    told = [(event.type, event.data.get("step")) for event in events if event.type in ("metrics", "frame")]
    assert told == [("metrics", 10), ("frame", 10)]
    assert [event.data["text"] for event in events if event.type == "notice"] == ["worker 1 died"]
    progress = [event.data["iteration"] for event in events if event.type == "progress"]
    assert progress == sorted(set(progress))
    assert progress[-1] == 11


def test_old_progress_is_forgotten_and_transitions_are_not(world: World) -> None:
    job_id, driver = world.running()
    driver.finish()
    world.until(job_id, State.SUCCEEDED)
    before = world.path_of(job_id)
    assert any(event.type == "progress" for event in world.store.events(job_id=job_id))
    world.pass_(4 * 24 * 3600)
    world.reconciler.sweep()
    assert not any(event.type == "progress" for event in world.store.events(job_id=job_id))
    assert world.path_of(job_id) == before


def _bring_to(world: World, state: State) -> str:
    if state == State.QUEUED:
        world.launcher.unreachable = True
        job_id = world.submit()
        world.tick(2)
        world.launcher.unreachable = False
        return job_id
    if state == State.SUBMITTING:
        world.launcher.loses_answers = True
        job_id = world.submit()
        world.tick(2)
        world.launcher.loses_answers = False
        return job_id
    if state == State.STARTING:
        job_id = world.submit()
        world.until(job_id, State.STARTING)
        return job_id
    job_id, driver = world.running()
    if state == State.PAUSED:
        world.service.pause(job_id)
        driver.finish(Outcome.PAUSED)
    elif state != State.RUNNING:
        driver.die()
    world.until(job_id, state)
    return job_id
