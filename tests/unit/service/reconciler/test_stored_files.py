"""The reconciler on jobs' files behind a storage, with drivers in folders of their own."""

from pathlib import Path

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome, Phase, Progress, Result
from jobs.errors import StorageRefused, StorageUnavailable
from jobs.interfaces import RunStatus
from jobs.specs import job_spec
from jobs.storage.attempt_claim import read_stored_control
from jobs.storage.copying.upload import JobUploader
from jobs.storage.folder import FolderStore
from jobs.storage.job_files import StoredJobFiles
from jobs.storage.objects import ObjectInfo
from seqae.checkpoints import manifest
from service.db.models import WaitingFor
from service.errors import SpecRefusedError
from service.job_state import State
from service.settings import ReconcilerSettings
from tests.control_plane import ControlPlane
from tests.reports import make_report


class _Store(FolderStore):
    """Fails as it is told to."""

    error: StorageUnavailable | StorageRefused | None = None

    def list(self, prefix: str) -> "list[ObjectInfo]":
        if self.error is not None:
            raise self.error
        return super().list(prefix)


class _Driver:
    """A driver on another machine, whose files are uploaded when the test says so."""

    def __init__(self, plane: ControlPlane, store: FolderStore, job_id: str, number: int) -> None:
        submission = plane.launcher.submissions[f"{job_id}-{number}"]
        self.folder = JobFolder(submission.job_dir)
        self.attempt = self.folder.attempt(number)
        self.environment = submission.environment
        self._uploader = JobUploader(store, f"jobs/{job_id}", submission.job_dir, lambda: None)
        self.attempt.path.mkdir(parents=True)
        plane.launcher.run(submission.submission_id)

    def beat(self, iteration: int) -> None:
        self.attempt.write_progress(
            Progress(
                time=float(iteration), last_progress_at=float(iteration), phase=Phase.TRAINING, iteration=iteration
            )
        )
        self.upload()

    def checkpoint(self, step: int) -> str:
        path = self.attempt.checkpoints / str(step)
        path.mkdir(parents=True)
        (path / "model.safetensors").write_text(f"weights of {step}")
        manifest.write(path, iteration=step, metrics={})
        return path.relative_to(self.folder.path).as_posix()

    def upload(self) -> None:
        self._uploader.upload()


@pytest.fixture
def store(tmp_path: Path) -> _Store:
    return _Store(tmp_path / "objects")


@pytest.fixture
def plane(tmp_path: Path, store: _Store) -> ControlPlane:
    files = StoredJobFiles(tmp_path / "control" / "jobs", store, "s3://bucket/x", tmp_path / "node")
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    return ControlPlane(tmp_path / "control", url, ReconcilerSettings(), files=files)


def _running(plane: ControlPlane, store: _Store) -> tuple[str, _Driver]:
    job_id = plane.submit()
    plane.until(job_id, State.STARTING)
    driver = _Driver(plane, store, job_id, 1)
    driver.beat(1)
    plane.until(job_id, State.RUNNING)
    return job_id, driver


def test_a_job_goes_all_the_way_through_the_storage(plane: ControlPlane, store: _Store, tmp_path: Path) -> None:
    job_id, driver = _running(plane, store)
    assert driver.folder.path == tmp_path / "node" / "jobs" / f"{job_id}-1" / job_id
    assert driver.environment["SEQAE_STORAGE"] == "s3://bucket/x"
    assert store.get(f"jobs/{job_id}/spec.json") is not None
    checkpoint = driver.checkpoint(100)
    driver.attempt.add_metrics(100, {"val/mse": 0.5})
    driver.attempt.write_report(make_report(0.01))
    driver.attempt.write_result(
        Result(outcome=Outcome.SUCCEEDED, checkpoint=checkpoint, metrics={"test/mse": 0.01}, iterations=100)
    )
    driver.upload()
    plane.launcher.finish(f"{job_id}-1")
    plane.until(job_id, State.SUCCEEDED)
    plane.tick(3)
    job = plane.service.get(job_id)
    assert job.model is not None
    assert plane.tracking.runs[f"run-{job_id}"].status is RunStatus.FINISHED
    assert [event.data["step"] for event in plane.store.events(job_id=job_id) if event.type == "metrics"] == [100]
    # Nobody needs the copy of the model any more; the storage still has it.
    assert plane.store.job(job_id).cleaned_up
    assert JobFolder(tmp_path / "control" / "jobs" / job_id).checkpoint_paths() == []
    assert any(info.key.endswith("/checkpoints/100/manifest.json") for info in store.list("jobs"))
    control = read_stored_control(store, f"jobs/{job_id}")
    assert control is not None
    assert control.fences(1)
    assert plane.service.delete(job_id)
    assert store.list("jobs") == []


@pytest.mark.parametrize("error", [StorageUnavailable("no answer"), StorageRefused("no permission")])
def test_a_job_waits_for_its_storage_and_is_not_taken_for_lost(
    plane: ControlPlane, store: _Store, error: StorageUnavailable | StorageRefused
) -> None:
    job_id, driver = _running(plane, store)
    store.error = error
    plane.tick(50, seconds=10)
    job = plane.store.job(job_id)
    assert job.state is State.RUNNING
    assert job.waiting is not None
    assert (job.waiting.reason, job.waiting.missing) == (WaitingFor.STORAGE, str(error))
    store.error = None
    driver.beat(2)
    plane.tick(3, seconds=10)
    assert plane.store.job(job_id).waiting is None
    assert plane.progress(job_id).iteration == 2


def test_a_deletion_waits_for_the_storage(plane: ControlPlane, store: _Store) -> None:
    job_id, _ = _running(plane, store)
    plane.service.cancel(job_id)
    plane.launcher.finish(f"{job_id}-1")
    plane.until(job_id, State.CANCELLED)
    plane.tick(3)
    store.error = StorageUnavailable("no answer")
    with pytest.raises(StorageUnavailable):
        plane.service.delete(job_id)
    assert plane.state(job_id) is State.CANCELLED
    store.error = None
    assert plane.service.delete(job_id)


def test_a_retry_carries_its_checkpoints_through_the_storage(plane: ControlPlane, store: _Store) -> None:
    job_id, driver = _running(plane, store)
    driver.checkpoint(40)
    driver.attempt.add_metrics(40, {"val/mse": 0.5})
    driver.upload()
    plane.service.cancel(job_id)
    plane.launcher.finish(f"{job_id}-1")
    plane.until(job_id, State.CANCELLED)
    plane.tick(3)
    again = plane.service.retry(job_id).id
    plane.until(again, State.STARTING)
    names = {info.key.removeprefix(f"jobs/{again}/") for info in store.list(f"jobs/{again}")}
    assert "attempts/0/checkpoints/40/manifest.json" in names
    assert "attempts/0/metrics.jsonl.parts/000000000000" in names


def test_a_search_by_eye_is_refused(plane: ControlPlane) -> None:
    search = {"kind": "tune", "name": "s", "base": {"name": "base"}, "space": {"bottleneck": [4, 8]}, "trials": 2}
    with pytest.raises(SpecRefusedError, match="folder that all machines see"):
        plane.service.submit(job_spec.validate_python(search | {"objective": "human"}))
