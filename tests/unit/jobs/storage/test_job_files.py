"""The control plane's view of jobs' files, in a folder that drivers share and behind a storage."""

from pathlib import Path

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Outcome, Progress, Result, Want
from jobs.errors import StorageRefused, StorageUnavailable
from jobs.specs import TrainSpec
from jobs.storage.copying.upload import JobUploader
from jobs.storage.folder import FolderStore
from jobs.storage.job_files import SharedJobFiles, StoredJobFiles
from jobs.storage.objects import ObjectInfo
from seqae.checkpoints import manifest

JOB = "job_1"


class _Unreachable(FolderStore):
    """Does not answer while it is told not to."""

    is_down = False

    def list(self, prefix: str) -> "list[ObjectInfo]":
        if self.is_down:
            raise StorageUnavailable("no answer")
        return super().list(prefix)


@pytest.fixture
def store(tmp_path: Path) -> _Unreachable:
    return _Unreachable(tmp_path / "objects")


@pytest.fixture
def files(store: _Unreachable, tmp_path: Path) -> StoredJobFiles:
    return StoredJobFiles(tmp_path / "control", store, "s3://bucket/prefix", tmp_path / "node")


@pytest.fixture
def known(tmp_path: Path) -> JobFolder:
    """The control plane's folder of the job."""
    return JobFolder(tmp_path / "control" / JOB)


@pytest.fixture
def driver(files: StoredJobFiles) -> JobFolder:
    """The driver's."""
    return JobFolder(files.driver_folder(JOB, 1))


def _upload(store: FolderStore, folder: JobFolder) -> None:
    JobUploader(store, f"jobs/{JOB}", folder.path, lambda: None).upload()


def _checkpoint(folder: JobFolder, step: int, attempt: int = 1) -> None:
    path = folder.attempt(attempt).checkpoints / str(step)
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    manifest.write(path, iteration=step, metrics={})


def test_drivers_get_an_address_and_no_key(files: StoredJobFiles, tmp_path: Path) -> None:
    assert files.environment == {
        "SEQAE_STORAGE": "s3://bucket/prefix",
        "SEQAE_CACHE_DIR": str(tmp_path / "node" / "data"),
    }
    assert files.driver_folder(JOB, 2) == tmp_path / "node" / "jobs" / "job_1-2" / JOB


def test_everything_but_checkpoints_is_fetched(
    files: StoredJobFiles, store: _Unreachable, driver: JobFolder, known: JobFolder
) -> None:
    files.fetch(JOB)
    assert not known.path.exists()
    driver.attempt(1).add_metrics(4, {"val/mse": 1.0})
    (driver.path / "optuna.journal").write_text("{}\n")
    _checkpoint(driver, 4)
    _checkpoint(driver, 8)
    driver.attempt(1).write_result(Result(outcome=Outcome.SUCCEEDED, checkpoint="attempts/1/checkpoints/4"))
    _upload(store, driver)
    files.fetch(JOB)
    assert known.attempt(1).read_result() is not None
    assert known.checkpoint_paths() == []
    assert not (known.path / "optuna.journal").exists()
    files.fetch_checkpoint(JOB, "attempts/1/checkpoints/4")
    assert [path.name for path in known.checkpoint_paths()] == ["4"]
    files.fetch_whole(JOB)
    assert [path.name for path in known.checkpoint_paths()] == ["8", "4"]


def test_pages_show_what_is_there_while_the_storage_is_away(
    files: StoredJobFiles, store: _Unreachable, driver: JobFolder, known: JobFolder
) -> None:
    driver.attempt(1).write_progress(Progress.model_validate({"time": 1, "moved_at": 1, "phase": "training"}))
    _upload(store, driver)
    store.is_down = True
    files.fetch_to_read(JOB)
    assert known.attempts() == []
    with pytest.raises(StorageUnavailable):
        files.fetch(JOB)
    store.is_down = False
    files.fetch_to_read(JOB)  # just asked: it is not asked again
    assert known.attempts() == []
    files.fetch(JOB)
    assert known.attempt(1).read_progress() is not None


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden"])
def test_odd_names_of_jobs_are_not_asked_for(files: StoredJobFiles, name: str, tmp_path: Path) -> None:
    files.fetch_to_read(name)
    assert not (tmp_path / "control").exists()
    with pytest.raises(StorageRefused):
        files.fetch("..")


def test_a_spec_and_what_was_carried_over_are_published(
    files: StoredJobFiles, store: _Unreachable, known: JobFolder, spec: TrainSpec
) -> None:
    known.write_spec(spec)
    known.write_shipped(known.read_shipped())
    _checkpoint(known, 4, attempt=0)
    files.publish(JOB, carried_over=False)
    assert [info.key for info in store.list("")] == ["jobs/job_1/spec.json"]
    files.publish(JOB, carried_over=True)
    files.publish(JOB, carried_over=True)
    names = {info.key.removeprefix("jobs/job_1/") for info in store.list("")}
    start = "attempts/0/checkpoints/4"
    assert names == {"spec.json", "shipped.json", f"{start}/manifest.json", f"{start}/model.safetensors"}


def test_a_fence_of_another_replica_stays(
    files: StoredJobFiles, store: _Unreachable, known: JobFolder, tmp_path: Path
) -> None:
    other = StoredJobFiles(tmp_path / "other", store, "s3://bucket/prefix", tmp_path / "node")
    other.issue_control(JOB, Control(attempt=2))
    files.issue_control(JOB, Control(attempt=1, want=Want.PAUSE))
    assert known.read_control() == Control(attempt=2)


def test_a_removed_job_leaves_no_objects(files: StoredJobFiles, store: _Unreachable, driver: JobFolder) -> None:
    driver.attempt(1).add_metrics(4, {"val/mse": 1.0})
    _upload(store, driver)
    store.put("jobs/job_10/spec.json", b"another's")
    files.remove(JOB)
    files.remove(JOB)
    assert [info.key for info in store.list("")] == ["jobs/job_10/spec.json"]


def test_a_shared_folder_is_there_already(tmp_path: Path) -> None:
    shared = SharedJobFiles(tmp_path)
    for act in (shared.fetch, shared.fetch_to_read, shared.fetch_whole, shared.drop_checkpoints, shared.remove):
        act(JOB)
    shared.publish(JOB, carried_over=True)
    shared.fetch_checkpoint(JOB, "attempts/1/checkpoints/4")
    assert list(tmp_path.iterdir()) == []
    shared.issue_control(JOB, Control(attempt=3))
    assert JobFolder(tmp_path / JOB).read_control() == Control(attempt=3)
    assert shared.driver_folder(JOB, 3) == tmp_path / JOB
    assert shared.environment == {}


def test_copies_of_checkpoints_are_dropped_and_fetched_again(
    files: StoredJobFiles, store: _Unreachable, driver: JobFolder, known: JobFolder
) -> None:
    _checkpoint(driver, 4)
    _checkpoint(driver.trial(0), 8)
    _upload(store, driver)
    files.fetch_whole(JOB)
    files.drop_checkpoints(JOB)
    assert known.checkpoint_paths() == known.trial(0).checkpoint_paths() == []
    files.fetch_whole(JOB)
    assert [path.name for path in known.trial(0).checkpoint_paths()] == ["8"]
