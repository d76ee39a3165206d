import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from jobs.directory.records import Outcome, TrialRow
from jobs.errors import LauncherUnavailable
from jobs.interfaces import Capacity, NodeCapacity
from jobs.specs import job_spec
from service.errors import ConflictError, JobNotFoundError, QuotaError, SpecRefusedError
from service.job_state import Desired, State
from service.scheduling.job_service import JobService
from service.scheduling.log_reader import MOST_BYTES, LogEnd
from service.settings import ReconcilerSettings
from tests.control_plane import ControlPlane


def spec(**fields: Any) -> Any:
    return job_spec.validate_python({"name": "scenes"} | fields)


def test_a_job_is_accepted_with_its_defaults_filled_in(plane: ControlPlane) -> None:
    job = plane.service.submit(spec(), owner="ann", priority=3)
    assert job.id.startswith("job_")
    assert len(job.id) == 16
    assert (job.state, job.kind, job.owner, job.priority, job.attempt) == (State.QUEUED, "train", "ann", 3, 0)
    assert job.spec == spec()
    assert plane.service.get(job.id) == job


def test_a_job_is_accepted_while_cluster_and_mlflow_are_down(plane: ControlPlane) -> None:
    plane.launcher.unreachable = plane.tracking.unreachable = True
    assert plane.service.submit(spec(scaling={"workers": 25})).state == State.QUEUED


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
def test_more_than_the_cluster_has_is_refused_at_the_field(plane: ControlPlane, fields: Any, pointer: str) -> None:
    with pytest.raises(SpecRefusedError) as caught:
        plane.service.submit(spec(**fields))
    assert [problem.pointer for problem in caught.value.problems] == [pointer]
    assert plane.service.list().items == ()
    answer = plane.service.validate(spec(**fields))
    assert not answer.accepted
    assert [problem.pointer for problem in answer.problems] == [pointer]


def test_a_repeated_request_gives_the_same_job_even_when_it_would_now_be_refused(plane: ControlPlane) -> None:
    first = plane.service.submit(spec(scaling={"workers": 2}), idempotency_key="k")
    plane.launcher.set_capacity(Capacity((NodeCapacity(cpus=1, gpus=0),)))
    assert plane.service.submit(spec(scaling={"workers": 2}), idempotency_key="k").id == first.id
    with pytest.raises(ConflictError, match=first.id):
        plane.service.submit(spec(seed=1), idempotency_key="k")
    with pytest.raises(ConflictError):
        plane.service.submit(spec(scaling={"workers": 2}), idempotency_key="k", priority=1)


def test_quotas_count_what_has_not_ended(plane: ControlPlane) -> None:
    service = JobService(
        plane.store,
        plane.another_cluster_monitor(),
        plane.jobs_dir,
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
def test_an_unknown_job_is_not_found(plane: ControlPlane, what: str) -> None:
    with pytest.raises(JobNotFoundError):
        getattr(plane.service, what)("job_000000000000")


def test_what_was_asked_for_already_is_no_error(plane: ControlPlane) -> None:
    job_id, _ = plane.running()
    assert plane.service.pause(job_id).state == plane.service.pause(job_id).state == State.PAUSING
    assert plane.service.resume(job_id).desired == plane.service.resume(job_id).desired == Desired.RUN
    assert plane.service.cancel(job_id).state == plane.service.cancel(job_id).state == State.CANCELLING
    version = plane.store.job(job_id).version
    plane.service.cancel(job_id)
    assert plane.store.job(job_id).version == version
    waits = plane.submit()
    cancelled = plane.service.cancel(waits)
    assert cancelled.state == State.CANCELLED
    assert plane.service.cancel(waits) == cancelled, "the first answer may have been lost"


@pytest.mark.parametrize("what", ["cancel", "pause", "resume"])
def test_an_ended_job_is_not_changed(plane: ControlPlane, what: str) -> None:
    job_id, driver = plane.running()
    driver.fail()
    plane.until(job_id, State.FAILED)
    before = plane.service.get(job_id)
    with pytest.raises(ConflictError, match="has ended"):
        getattr(plane.service, what)(job_id)
    with pytest.raises(ConflictError, match="has ended"):
        plane.service.set_priority(job_id, 5)
    assert plane.service.get(job_id) == before


def test_a_job_that_is_being_cancelled_is_neither_paused_nor_resumed(plane: ControlPlane) -> None:
    job_id, _ = plane.running()
    plane.service.cancel(job_id)
    for what in (plane.service.pause, plane.service.resume):
        with pytest.raises(ConflictError):
            what(job_id)


def test_a_job_that_waits_for_its_next_attempt_can_be_tried_at_once(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.die()
    plane.until(job_id, State.RETRY_WAIT)
    assert plane.service.retry(job_id).state == State.QUEUED
    assert plane.service.retry(job_id).id == job_id


def test_a_retry_of_a_failed_job_is_a_new_job_that_goes_on_from_its_checkpoint(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.folder.add_metrics(40, {"train/loss": 0.4})
    driver.folder.add_metrics(60, {"train/loss": 0.2})
    for step in (30, 40, 50):
        driver.checkpoint(step)
    driver.fail()
    plane.until(job_id, State.FAILED)
    again = plane.service.retry(job_id)
    assert again.retry_of == job_id
    assert plane.service.retry(job_id).id == again.id, "asked twice, done once"
    assert plane.service.get(job_id).state == State.FAILED, "an end is final"
    plane.until(again.id, State.STARTING)
    folder = plane.driver(again.id).job_folder
    assert [path.name for path in folder.checkpoint_paths()] == ["50", "40"]
    assert [(row.step, row.metrics) for row in folder.history()] == [(40, {"train/loss": 0.4})]


def test_a_retry_of_a_search_keeps_the_trials_that_are_done(plane: ControlPlane) -> None:
    search = spec(kind="tune", base={"name": "b"}, space={"bottleneck": [8]}, trials=2)
    job_id = plane.service.submit(search).id
    plane.until(job_id, State.STARTING)
    driver = plane.driver(job_id)
    driver.beat(1)
    plane.until(job_id, State.RUNNING)
    done = {"trial": 0, "state": "stopped", "params": {}, "metrics": {"test/mse": 0.5}, "epoch": 1.0}
    driver.folder.add_trial(TrialRow.model_validate(done))
    for trial in (0, 1):
        driver.job_folder.trial(trial).attempt(1).add_metrics(40, {"test/mse": 0.5})
    driver.fail()
    plane.until(job_id, State.FAILED)
    again = plane.service.retry(job_id)
    plane.until(again.id, State.STARTING)
    folder = plane.driver(again.id).job_folder
    assert folder.trials() == driver.job_folder.trials()
    assert [row.step for row in folder.trial(0).history()] == [40]
    assert folder.trial(1).attempts() == [], "it left no checkpoint, so it starts afresh"


def test_a_succeeded_job_is_not_tried_again(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)
    with pytest.raises(ConflictError):
        plane.service.retry(job_id)


def test_a_deleted_job_is_gone_with_its_files_but_not_its_events(plane: ControlPlane) -> None:
    """F11: for some seconds after its end a DELETE was refused."""
    job_id, driver = plane.running()
    with pytest.raises(ConflictError, match="cancel it first"):
        plane.service.delete(job_id)
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)
    assert not plane.service.delete(job_id), "what it left on the cluster and in MLflow is still being closed"
    assert plane.service.get(job_id).deleting
    assert not plane.service.delete(job_id), "asking again is harmless"
    plane.tick(2)
    assert plane.service.delete(job_id), "and so it is afterwards"
    assert list(plane.jobs_dir.glob("**/*")) == [plane.jobs_dir / ".deleted"]
    assert plane.service.events(job_id=job_id)[-1].type == "deleted"
    with pytest.raises(JobNotFoundError):
        plane.service.get(job_id)


def test_a_delete_that_a_crash_interrupted_can_be_repeated(plane: ControlPlane) -> None:
    job_id = plane.submit()
    plane.service.cancel(job_id)
    left = plane.jobs_dir / ".deleted" / job_id
    left.mkdir(parents=True)
    plane.reconciler.sweep()
    assert left.exists(), "its row is still there"
    plane.service.delete(job_id)
    assert not left.exists()
    left.mkdir()
    plane.pass_(60)
    plane.reconciler.sweep()
    assert not left.exists()


def test_what_a_driver_prints_is_read_without_the_cluster(plane: ControlPlane) -> None:
    job_id = plane.submit()
    assert plane.service.logs(job_id).content == b""
    plane.until(job_id, State.STARTING)
    driver = plane.driver(job_id)
    driver.print("hello\n")
    plane.launcher.unreachable = True
    assert plane.service.logs(job_id) == LogEnd(b"hello\n", attempt=1, end=6)
    driver.print("bye\n")
    assert plane.service.log_after(job_id, 1, start=6) == b"bye\n"
    assert plane.service.log_after(job_id, 1, start=10) == b""
    assert plane.service.logs(job_id, lines=1).content == b"bye\n"
    with pytest.raises(JobNotFoundError):
        plane.service.logs(job_id, attempt=2)


def test_what_the_cluster_says_of_a_driver_that_did_not_start_is_kept(plane: ControlPlane) -> None:
    job_id = plane.submit()
    plane.until(job_id, State.STARTING)
    name = plane.driver(job_id).name
    plane.launcher.print(name, "no such image\n")
    assert plane.service.logs(job_id).content == b"no such image\n"
    plane.launcher.unreachable = True
    with pytest.raises(LauncherUnavailable):
        plane.service.logs(job_id)
    plane.launcher.unreachable = False
    plane.driver(job_id).die()
    plane.until(job_id, State.RETRY_WAIT)
    plane.launcher.unreachable = True
    assert plane.service.logs(job_id, attempt=1).content == b"no such image\n"


def test_a_long_log_is_read_from_its_end_and_on_in_pieces(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    lines = [f"{number:07}\n" for number in range(300_000)]  # 2.4 MB
    driver.print("".join(lines))
    found = plane.service.logs(job_id)
    assert MOST_BYTES - 8 <= len(found.content) <= MOST_BYTES
    assert found.content.startswith(b"0"), "from the start of a line on"
    assert (found.content.splitlines()[-1], found.end) == (b"0299999", 8 * len(lines))
    pieces, start = [], 0
    while piece := plane.service.log_after(job_id, 1, start):
        assert len(piece) <= MOST_BYTES
        pieces.append(piece)
        start += len(piece)
    assert b"".join(pieces).decode() == "".join(lines)


def test_only_a_job_that_gets_further_has_an_estimate_of_its_end(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    assert plane.progress(job_id).eta_seconds is None, "nobody knows yet"
    driver.beat(10, eta_seconds=90.0)
    plane.tick(2)
    assert plane.progress(job_id).eta_seconds == 90.0
    driver.die()
    plane.until(job_id, State.RETRY_WAIT)
    progress = plane.progress(job_id)
    assert (progress.iteration, progress.eta_seconds) == (10, None)


def test_validate_tells_what_would_run(plane: ControlPlane) -> None:
    plane.launcher.set_capacity(Capacity((NodeCapacity(cpus=8, gpus=0),)))
    answer = plane.service.validate(spec(scaling={"workers": {"min": 2, "max": 4}, "cpus_per_worker": 2}))
    assert (answer.accepted, answer.workers, answer.cpus, answer.gpus) == (True, 4, 8, 0)
    assert (answer.iterations, answer.seconds) == (2000, None)
    assert answer.memory_bytes > 1e9
    search = {"kind": "tune", "space": {"bottleneck": [8]}, "trials": 3, "base": {"name": "b"}}
    assert plane.service.validate(spec(**search)).workers == 3
    plane.launcher.unreachable = True
    assert plane.service.validate(spec()).warnings == (), "an answer a few seconds old will do"
    plane.pass_(5)
    assert "does not answer" in plane.service.validate(spec()).warnings[0]
    assert plane.service.list().items == ()


def test_validate_estimates_time_from_what_ran_here(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.beat(50, images_per_second=100.0)
    plane.tick()
    driver.finish()
    plane.until(job_id, State.SUCCEEDED)
    assert plane.service.validate(spec(scaling={"workers": 2})).seconds == pytest.approx(500)
    assert plane.service.validate(spec(scaling={"workers": 1})).seconds is None
    assert plane.service.validate(spec(scaling={"workers": 2}, model={"steps": 3})).seconds is None


def test_a_pause_that_comes_too_late_is_a_conflict(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    plane.tracking.unreachable = True
    driver.finish(Outcome.SUCCEEDED)
    plane.until(job_id, State.FINALIZING)
    with pytest.raises(ConflictError):
        plane.service.pause(job_id)


HUGE = {"model": {"height": 1024, "width": 1024, "channels": 3, "steps": 64}, "schedule": {"batch_size": 65_536}}


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        (HUGE, "#/schedule/batch_size"),
        ({"kind": "tune", "space": {"bottleneck": [8]}, "base": {"name": "b", **HUGE}}, "#/base/schedule/batch_size"),
        (
            {
                "kind": "tune",
                "space": {"schedule.batch_size": {"kind": "choice", "values": [25, 65_536]}},
                "base": {"name": "b"},
            },
            "#/space/schedule.batch_size/values/1",
        ),
        (HUGE | {"scaling": {"gpus_per_worker": 1}}, "#/schedule/batch_size"),
        (HUGE | {"schedule": {"batch_size": 1}, "model": HUGE["model"] | {"localizer": {"kind": "improved"}}}, None),
        (
            {"data": {"train_scenes": 1_000_000}, "model": {"height": 512, "width": 512, "channels": 3}},
            "#/data/train_scenes",
        ),
    ],
)
def test_more_memory_than_any_machine_has_is_refused(plane: ControlPlane, fields: Any, pointer: str | None) -> None:
    """C4: 10^16 bytes were accepted."""
    plane.launcher.set_capacity(Capacity((NodeCapacity(cpus=4, gpus=1, memory_bytes=64e9),)))
    wanted = spec(**fields)
    answer = plane.service.validate(wanted)
    expected = ["#/model/steps"] if pointer is None else [pointer]
    assert [problem.pointer for problem in answer.problems] == expected
    assert not answer.accepted
    with pytest.raises(SpecRefusedError) as caught:
        plane.service.submit(wanted)
    assert [problem.pointer for problem in caught.value.problems] == expected


def test_what_fits_into_memory_is_not_refused(plane: ControlPlane) -> None:
    """C4: the least that a worker can do with counts, and a machine that tells no size has enough."""
    large = {"model": {"height": 512, "width": 512}, "schedule": {"batch_size": 64}}
    plane.launcher.set_capacity(Capacity((NodeCapacity(cpus=4, gpus=0, memory_bytes=3e9),)))
    assert not plane.service.validate(spec(**large)).accepted
    saving = large | {"schedule": {"batch_size": 64, "checkpoint_activations": True, "precision": "bfloat16"}}
    assert plane.service.validate(spec(**saving)).accepted
    assert plane.service.validate(spec(**large, scaling={"workers": 4})).accepted
    plane.launcher.set_capacity(Capacity((NodeCapacity(cpus=4, gpus=0),)))
    plane.pass_(5)
    assert plane.service.validate(spec(**large)).accepted


def _with_data(plane: ControlPlane, data_dir: Path | None) -> JobService:
    return JobService(plane.store, plane.another_cluster_monitor(), plane.jobs_dir, plane.settings, data_dir=data_dir)


@pytest.mark.parametrize(
    ("data", "pointer", "words"),
    [
        ({"path": "nowhere"}, "#/data/path", "there is no"),
        ({"path": "../other"}, "#/data/path", "not below"),
        ({"path": "/etc"}, "#/data/path", "not below"),
        ({"path": "coco", "annotations": "coco/none.json"}, "#/data/annotations", "there is no"),
    ],
)
def test_images_that_lie_elsewhere_are_refused_at_submission(
    plane: ControlPlane, tmp_path: Path, data: dict[str, str], pointer: str, words: str
) -> None:
    """C6: it failed on the cluster only."""
    (tmp_path / "data" / "coco").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    service = _with_data(plane, tmp_path / "data")
    answer = service.validate(spec(data={"kind": "images"} | data))
    assert [(problem.pointer, words in problem.detail) for problem in answer.problems] == [(pointer, True)]
    with pytest.raises(SpecRefusedError, match=words):
        service.submit(spec(data={"kind": "images"} | data))
    assert service.validate(spec(data={"kind": "images", "path": "coco"})).accepted


def test_a_relative_path_without_a_data_folder_is_refused_with_the_cure(plane: ControlPlane) -> None:
    """C6."""
    relative = spec(
        kind="tune", space={"bottleneck": [8]}, base={"name": "b", "data": {"kind": "images", "path": "coco"}}
    )
    [problem] = _with_data(plane, None).validate(relative).problems
    assert problem.pointer == "#/base/data/path"
    assert "seqae up --data-dir" in problem.detail


def test_what_the_control_plane_does_not_see_is_a_warning(plane: ControlPlane, tmp_path: Path) -> None:
    """C6: the folder may be mounted on the cluster's machines alone."""
    answer = _with_data(plane, tmp_path / "absent").validate(spec(data={"kind": "images", "path": "coco"}))
    assert answer.accepted
    assert any("not seen from here" in warning for warning in answer.warnings)


def test_a_job_may_be_deleted_twice_and_while_it_is_cleaned_up(plane: ControlPlane) -> None:
    """F11: the cluster may be away for long; the job goes once it is back."""
    job_id, driver = plane.running()
    driver.finish(leave=False)
    plane.until(job_id, State.SUCCEEDED)
    plane.launcher.unreachable = True
    assert not plane.service.delete(job_id)
    plane.tick(20)
    assert plane.service.get(job_id).deleting
    plane.launcher.unreachable = False
    plane.tick(20)
    with pytest.raises(JobNotFoundError):
        plane.service.get(job_id)
    assert not driver.job_folder.path.exists()
    assert plane.service.delete(job_id)
    assert [event.type for event in plane.service.events(job_id=job_id)].count("deleted") == 1


def test_a_key_names_its_job_over_an_upgrade_that_adds_fields(plane: ControlPlane) -> None:
    """C1: the hash of the body is another release's, with fewer fields."""
    first = plane.service.submit(spec(), idempotency_key="k")
    stored = first.spec.model_dump(mode="json") if not isinstance(first.spec, dict) else first.spec
    del stored["data"]["max_overlap"]
    with plane.store.database.write() as session:
        values = {"spec": json.dumps(stored), "id": first.id}
        session.execute(
            text("UPDATE jobs SET spec = :spec, spec_version = NULL, body_hash = 'x' WHERE id = :id"), values
        )
    assert plane.service.submit(spec(), idempotency_key="k").id == first.id
    with pytest.raises(ConflictError):
        plane.service.submit(spec(seed=3), idempotency_key="k")
