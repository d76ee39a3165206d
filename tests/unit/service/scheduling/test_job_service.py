from typing import Any

import pytest

from jobs.directory.records import Outcome, TrialRow
from jobs.errors import LauncherUnavailable
from jobs.interfaces import Capacity, NodeCapacity
from jobs.specs import job_spec
from service.errors import ConflictError, JobNotFoundError, QuotaError, SpecRefusedError
from service.job_state import Desired, State
from service.scheduling.job_service import JobService
from service.scheduling.log_reader import MOST_BYTES, LogEnd
from service.settings import ReconcilerSettings

World = Any


def spec(**fields: Any) -> Any:
    return job_spec.validate_python({"name": "scenes"} | fields)


def test_a_job_is_accepted_with_its_defaults_filled_in(world: World) -> None:
    job = world.service.submit(spec(), owner="ann", priority=3)
    assert job.id.startswith("job_")
    assert len(job.id) == 16
    assert (job.state, job.kind, job.owner, job.priority, job.attempt) == (State.QUEUED, "train", "ann", 3, 0)
    assert job.spec == spec()
    assert world.service.get(job.id) == job


def test_a_job_is_accepted_while_cluster_and_mlflow_are_down(world: World) -> None:
    world.launcher.unreachable = world.tracking.unreachable = True
    assert world.service.submit(spec(scaling={"workers": 25})).state == State.QUEUED


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"scaling": {"workers": 3}}, "#/scaling/workers"),
        ({"scaling": {"workers": {"min": 3, "max": 4}}}, "#/scaling/workers/min"),
        ({"scaling": {"cpus_per_worker": 4}}, "#/scaling/cpus_per_worker"),
        ({"scaling": {"gpus_per_worker": 1}}, "#/scaling/gpus_per_worker"),
        (
            {"kind": "tune", "space": {"bottleneck": [8]}, "base": {"name": "b", "scaling": {"workers": 9}}},
            "#/base/scaling/workers",
        ),
    ],
)
def test_more_than_the_cluster_has_is_refused_at_the_field(world: World, fields: Any, pointer: str) -> None:
    with pytest.raises(SpecRefusedError) as caught:
        world.service.submit(spec(**fields))
    assert [problem.pointer for problem in caught.value.problems] == [pointer]
    assert world.service.list().items == ()
    answer = world.service.validate(spec(**fields))
    assert not answer.accepted
    assert [problem.pointer for problem in answer.problems] == [pointer]


def test_a_repeated_request_gives_the_same_job_even_when_it_would_now_be_refused(world: World) -> None:
    first = world.service.submit(spec(scaling={"workers": 2}), idempotency_key="k")
    world.launcher.set_capacity(Capacity((NodeCapacity(cpus=1, gpus=0),)))
    assert world.service.submit(spec(scaling={"workers": 2}), idempotency_key="k").id == first.id
    with pytest.raises(ConflictError, match=first.id):
        world.service.submit(spec(seed=1), idempotency_key="k")
    with pytest.raises(ConflictError):
        world.service.submit(spec(scaling={"workers": 2}), idempotency_key="k", priority=1)


def test_quotas_count_what_has_not_ended(world: World) -> None:
    service = JobService(
        world.store,
        world.another_cluster_monitor(),
        world.jobs_dir,
        ReconcilerSettings(max_jobs_per_owner=2, max_jobs=3),
    )
    first = service.submit(spec(), owner="ann")
    service.submit(spec(), owner="ann")
    with pytest.raises(QuotaError, match="you have 2 jobs"):
        service.submit(spec(), owner="ann")
    service.submit(spec(), owner="bob")
    with pytest.raises(QuotaError, match="queue is full"):
        service.submit(spec(), owner="bob")
    service.cancel(first.id)
    service.submit(spec(), owner="ann")


@pytest.mark.parametrize("what", ["get", "cancel", "pause", "resume", "retry", "delete", "logs", "attempts"])
def test_an_unknown_job_is_not_found(world: World, what: str) -> None:
    with pytest.raises(JobNotFoundError):
        getattr(world.service, what)("job_000000000000")


def test_what_was_asked_for_already_is_no_error(world: World) -> None:
    job_id, _ = world.running()
    assert world.service.pause(job_id).state == world.service.pause(job_id).state == State.PAUSING
    assert world.service.resume(job_id).desired == world.service.resume(job_id).desired == Desired.RUN
    assert world.service.cancel(job_id).state == world.service.cancel(job_id).state == State.CANCELLING
    version = world.store.job(job_id).version
    world.service.cancel(job_id)
    assert world.store.job(job_id).version == version
    waits = world.submit()
    cancelled = world.service.cancel(waits)
    assert cancelled.state == State.CANCELLED
    assert world.service.cancel(waits) == cancelled, "the first answer may have been lost"


@pytest.mark.parametrize("what", ["cancel", "pause", "resume"])
def test_an_ended_job_is_not_changed(world: World, what: str) -> None:
    job_id, driver = world.running()
    driver.fail()
    world.until(job_id, State.FAILED)
    before = world.service.get(job_id)
    with pytest.raises(ConflictError, match="has ended"):
        getattr(world.service, what)(job_id)
    with pytest.raises(ConflictError, match="has ended"):
        world.service.set_priority(job_id, 5)
    assert world.service.get(job_id) == before


def test_a_job_that_is_being_cancelled_is_neither_paused_nor_resumed(world: World) -> None:
    job_id, _ = world.running()
    world.service.cancel(job_id)
    for what in (world.service.pause, world.service.resume):
        with pytest.raises(ConflictError):
            what(job_id)


def test_a_job_that_waits_for_its_next_attempt_can_be_tried_at_once(world: World) -> None:
    job_id, driver = world.running()
    driver.die()
    world.until(job_id, State.RETRY_WAIT)
    assert world.service.retry(job_id).state == State.QUEUED
    assert world.service.retry(job_id).id == job_id


def test_a_retry_of_a_failed_job_is_a_new_job_that_goes_on_from_its_checkpoint(world: World) -> None:
    job_id, driver = world.running()
    driver.folder.add_metrics(40, {"train/loss": 0.4})
    driver.folder.add_metrics(60, {"train/loss": 0.2})
    for step in (30, 40, 50):
        driver.checkpoint(step)
    driver.fail()
    world.until(job_id, State.FAILED)
    again = world.service.retry(job_id)
    assert again.retry_of == job_id
    assert world.service.retry(job_id).id == again.id, "asked twice, done once"
    assert world.service.get(job_id).state == State.FAILED, "an end is final"
    world.until(again.id, State.STARTING)
    folder = world.driver(again.id).job_folder
    assert [path.name for path in folder.checkpoint_paths()] == ["50", "40"]
    assert [(row.step, row.metrics) for row in folder.history()] == [(40, {"train/loss": 0.4})]


def test_a_retry_of_a_search_keeps_the_trials_that_are_done(world: World) -> None:
    search = spec(kind="tune", base={"name": "b"}, space={"bottleneck": [8]}, trials=2)
    job_id = world.service.submit(search).id
    world.until(job_id, State.STARTING)
    driver = world.driver(job_id)
    driver.beat(1)
    world.until(job_id, State.RUNNING)
    done = {"trial": 0, "state": "stopped", "params": {}, "metrics": {"test/mse": 0.5}, "epoch": 1.0}
    driver.folder.add_trial(TrialRow.model_validate(done))
    for trial in (0, 1):
        driver.job_folder.trial(trial).attempt(1).add_metrics(40, {"test/mse": 0.5})
    driver.fail()
    world.until(job_id, State.FAILED)
    again = world.service.retry(job_id)
    world.until(again.id, State.STARTING)
    folder = world.driver(again.id).job_folder
    assert folder.trials() == driver.job_folder.trials()
    assert [row.step for row in folder.trial(0).history()] == [40]
    assert folder.trial(1).attempts() == [], "it left no checkpoint, so it starts afresh"


def test_a_succeeded_job_is_not_tried_again(world: World) -> None:
    job_id, driver = world.running()
    driver.finish()
    world.until(job_id, State.SUCCEEDED)
    with pytest.raises(ConflictError):
        world.service.retry(job_id)


def test_a_deleted_job_is_gone_with_its_files_but_not_its_events(world: World) -> None:
    job_id, driver = world.running()
    with pytest.raises(ConflictError, match="cancel it first"):
        world.service.delete(job_id)
    driver.finish()
    world.until(job_id, State.SUCCEEDED)
    with pytest.raises(ConflictError, match="still being closed"):
        world.service.delete(job_id)
    world.tick(2)
    world.service.delete(job_id)
    assert list(world.jobs_dir.glob("**/*")) == [world.jobs_dir / ".deleted"]
    assert world.service.events(job_id=job_id)[-1].type == "deleted"
    with pytest.raises(JobNotFoundError):
        world.service.get(job_id)


def test_a_delete_that_a_crash_interrupted_can_be_repeated(world: World) -> None:
    job_id = world.submit()
    world.service.cancel(job_id)
    left = world.jobs_dir / ".deleted" / job_id
    left.mkdir(parents=True)
    world.reconciler.sweep()
    assert left.exists(), "its row is still there"
    world.service.delete(job_id)
    assert not left.exists()
    left.mkdir()
    world.pass_(60)
    world.reconciler.sweep()
    assert not left.exists()


def test_what_a_driver_prints_is_read_without_the_cluster(world: World) -> None:
    job_id = world.submit()
    assert world.service.logs(job_id).content == b""
    world.until(job_id, State.STARTING)
    driver = world.driver(job_id)
    driver.print("hello\n")
    world.launcher.unreachable = True
    assert world.service.logs(job_id) == LogEnd(b"hello\n", attempt=1, end=6)
    driver.print("bye\n")
    assert world.service.log_after(job_id, 1, start=6) == b"bye\n"
    assert world.service.log_after(job_id, 1, start=10) == b""
    assert world.service.logs(job_id, lines=1).content == b"bye\n"
    with pytest.raises(JobNotFoundError):
        world.service.logs(job_id, attempt=2)


def test_what_the_cluster_says_of_a_driver_that_did_not_start_is_kept(world: World) -> None:
    job_id = world.submit()
    world.until(job_id, State.STARTING)
    name = world.driver(job_id).name
    world.launcher.print(name, "no such image\n")
    assert world.service.logs(job_id).content == b"no such image\n"
    world.launcher.unreachable = True
    with pytest.raises(LauncherUnavailable):
        world.service.logs(job_id)
    world.launcher.unreachable = False
    world.driver(job_id).die()
    world.until(job_id, State.RETRY_WAIT)
    world.launcher.unreachable = True
    assert world.service.logs(job_id, attempt=1).content == b"no such image\n"


def test_a_long_log_is_read_from_its_end_and_on_in_pieces(world: World) -> None:
    job_id, driver = world.running()
    lines = [f"{number:07}\n" for number in range(300_000)]  # 2.4 MB
    driver.print("".join(lines))
    found = world.service.logs(job_id)
    assert MOST_BYTES - 8 <= len(found.content) <= MOST_BYTES
    assert found.content.startswith(b"0"), "from the start of a line on"
    assert (found.content.splitlines()[-1], found.end) == (b"0299999", 8 * len(lines))
    pieces, start = [], 0
    while piece := world.service.log_after(job_id, 1, start):
        assert len(piece) <= MOST_BYTES
        pieces.append(piece)
        start += len(piece)
    assert b"".join(pieces).decode() == "".join(lines)


def test_only_a_job_that_gets_further_has_an_estimate_of_its_end(world: World) -> None:
    job_id, driver = world.running()
    assert world.service.get(job_id).progress.eta_seconds is None, "nobody knows yet"
    driver.beat(10, eta_seconds=90.0)
    world.tick(2)
    assert world.service.get(job_id).progress.eta_seconds == 90.0
    driver.die()
    world.until(job_id, State.RETRY_WAIT)
    progress = world.service.get(job_id).progress
    assert (progress.iteration, progress.eta_seconds) == (10, None)


def test_validate_tells_what_would_run(world: World) -> None:
    world.launcher.set_capacity(Capacity((NodeCapacity(cpus=8, gpus=0),)))
    answer = world.service.validate(spec(scaling={"workers": {"min": 2, "max": 4}, "cpus_per_worker": 2}))
    assert (answer.accepted, answer.workers, answer.cpus, answer.gpus) == (True, 4, 8, 0)
    assert (answer.iterations, answer.seconds) == (2000, None)
    assert answer.memory_bytes > 1e9
    search = {"kind": "tune", "space": {"bottleneck": [8]}, "trials": 3, "base": {"name": "b"}}
    assert world.service.validate(spec(**search)).workers == 3
    world.launcher.unreachable = True
    assert world.service.validate(spec()).warnings == (), "an answer a few seconds old will do"
    world.pass_(5)
    assert "does not answer" in world.service.validate(spec()).warnings[0]
    assert world.service.list().items == ()


def test_validate_estimates_time_from_what_ran_here(world: World) -> None:
    job_id, driver = world.running()
    driver.beat(50, images_per_second=100.0)
    world.tick()
    driver.finish()
    world.until(job_id, State.SUCCEEDED)
    assert world.service.validate(spec(scaling={"workers": 2})).seconds == pytest.approx(500)
    assert world.service.validate(spec(scaling={"workers": 1})).seconds is None
    assert world.service.validate(spec(scaling={"workers": 2}, model={"steps": 3})).seconds is None


def test_a_pause_that_comes_too_late_is_a_conflict(world: World) -> None:
    job_id, driver = world.running()
    world.tracking.unreachable = True
    driver.finish(Outcome.SUCCEEDED)
    world.until(job_id, State.FINALIZING)
    with pytest.raises(ConflictError):
        world.service.pause(job_id)
