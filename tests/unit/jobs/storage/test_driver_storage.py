"""A driver's folder and the storage, kept in step."""

import os
import time
from pathlib import Path

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Outcome, Phase, Progress, Result, Want
from jobs.errors import FencedError, StorageUnavailable
from jobs.storage.attempt_claim import AttemptClaim, issue_stored_control
from jobs.storage.copying.upload import JobUploader
from jobs.storage.driver_storage import DriverStorage
from jobs.storage.folder import FolderStore
from jobs.storage.objects import StoredObject
from seqae.checkpoints import manifest
from tests.daemons import wait_until

JOB, PREFIX = "job_1", "jobs/job_1"


class _Store(FolderStore):
    """Does not answer so many times."""

    failures = 0

    def get(self, key: str) -> StoredObject | None:
        if self.failures:
            self.failures -= 1
            raise StorageUnavailable("no answer")
        return super().get(key)


@pytest.fixture
def store(tmp_path: Path) -> _Store:
    made = _Store(tmp_path / "objects")
    issue_stored_control(made, PREFIX, Control(attempt=2))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """Of the second attempt, on its machine."""
    made = JobFolder(tmp_path / "node" / "jobs" / f"{JOB}-2" / JOB)
    made.attempt(2).path.mkdir(parents=True)
    made.attempt(2).log.write_text("starting\n")
    return made


@pytest.fixture
def before(tmp_path: Path, store: _Store) -> JobFolder:
    """What the first attempt has left in the storage."""
    made = JobFolder(tmp_path / "before" / JOB)
    made.attempt(1).add_metrics(4, {"val/mse": 1.0})
    path = made.attempt(1).checkpoints / "4"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    manifest.write(path, iteration=4, metrics={})
    JobUploader(store, PREFIX, made.path, lambda: None).upload()
    store.put(f"{PREFIX}/attempts/1/checkpoints/8/model.safetensors", b"half of it")
    return made


def _progress(iteration: int) -> Progress:
    return Progress(time=time.time(), last_progress_at=1.0, phase=Phase.TRAINING, iteration=iteration)


@pytest.mark.usefixtures("before")
def test_it_begins_with_what_was_left(store: _Store, folder: JobFolder) -> None:
    storage = DriverStorage(store, folder, 2)
    storage.begin()
    assert [path.name for path in folder.checkpoint_paths()] == ["4"]
    assert [row.step for row in folder.history()] == [4]
    assert folder.read_control() == Control(attempt=2)
    assert store.list(f"{PREFIX}/attempts/1/checkpoints/8") == []
    assert store.get(f"{PREFIX}/claim.json") is not None


def test_an_older_attempt_does_not_begin(store: _Store, tmp_path: Path) -> None:
    old = JobFolder(tmp_path / "node" / "jobs" / f"{JOB}-1" / JOB)
    with pytest.raises(FencedError):
        DriverStorage(store, old, 1).begin()
    assert not old.path.exists()


def test_a_storage_that_comes_back_in_time_is_waited_for(store: _Store, folder: JobFolder) -> None:
    store.failures = 1
    DriverStorage(store, folder, 2).begin()
    store.failures = 10
    with pytest.raises(StorageUnavailable):
        DriverStorage(store, folder, 2, start_timeout=0).begin()


def test_heartbeat_and_wishes_go_through(store: _Store, folder: JobFolder) -> None:
    storage = DriverStorage(store, folder, 2)
    storage.begin()
    storage.start()
    folder.attempt(2).write_progress(_progress(5))
    key = f"{PREFIX}/attempts/2/progress.json"
    wait_until(lambda: store.get(key) is not None, "a heartbeat in the storage")
    issue_stored_control(store, PREFIX, Control(attempt=2, want=Want.PAUSE))
    wait_until(lambda: folder.read_control().want is Want.PAUSE, "the pause in the folder")
    folder.attempt(2).write_result(Result(outcome=Outcome.PAUSED))
    assert storage.finish(10)
    assert store.get(f"{PREFIX}/attempts/2/result.json") is not None
    log = store.get(f"{PREFIX}/attempts/2/driver.log.parts/000000000000")
    assert log is not None
    assert log.content == b"starting\n"


def test_an_attempt_that_was_overtaken_stops_its_workers_and_ends_without_a_result(
    store: _Store, folder: JobFolder
) -> None:
    storage = DriverStorage(store, folder, 2)
    storage.begin()
    AttemptClaim(store, PREFIX, 3).take()
    folder.attempt(2).write_result(Result(outcome=Outcome.SUCCEEDED))
    storage.start()
    wait_until(lambda: folder.read_control().fences(2), "the fence in the folder")
    assert storage.finish(10)
    assert store.get(f"{PREFIX}/attempts/2/result.json") is None


def test_what_the_storage_does_not_take_is_told(store: _Store, folder: JobFolder) -> None:
    storage = DriverStorage(store, folder, 2)
    storage.begin()
    folder.attempt(2).write_result(Result(outcome=Outcome.SUCCEEDED))
    store.failures = 1000
    assert not storage.finish(0)
    store.failures = 0
    assert store.get(f"{PREFIX}/attempts/2/result.json") is None


def test_copies_of_this_attempt_alone_are_removed(store: _Store, folder: JobFolder, tmp_path: Path) -> None:
    storage = DriverStorage(store, folder, 2)
    storage.begin()
    other = tmp_path / "node" / "jobs" / "job_2-1"
    other.mkdir()
    storage.remove_copies()
    assert list((tmp_path / "node" / "jobs").iterdir()) == [other]
    shared = JobFolder(tmp_path / "shared" / JOB)
    shared.path.mkdir(parents=True)
    DriverStorage(store, shared, 2).remove_copies()
    assert shared.path.exists()


def test_what_killed_drivers_left_is_removed(store: _Store, folder: JobFolder, tmp_path: Path) -> None:
    jobs = tmp_path / "node" / "jobs"
    for name in (f"{JOB}-1", "job_new-1", "job_old-1"):
        (jobs / name / "x").mkdir(parents=True)
        (jobs / name / "x" / "file").write_text("x")
    for path in (jobs / "job_old-1" / "x" / "file", jobs / "job_old-1"):
        os.utime(path, (0, 0))
    DriverStorage(store, folder, 2).begin()
    assert {path.name for path in jobs.iterdir()} == {f"{JOB}-2", "job_new-1"}


def test_another_job_is_copied_to_beside_it(store: _Store, folder: JobFolder) -> None:
    store.put("jobs/job_2/spec.json", b"{}")
    store.put("jobs/job_2/attempts/1/frames/4.png", b"png")
    storage = DriverStorage(store, folder, 2)
    for name in ("job_2", "job_3", "../x", "name/1", JOB):
        storage.fetch_job(name)
    assert {path.name for path in folder.path.parent.iterdir()} == {JOB, "job_2"}
    copied = folder.path.parent / "job_2"
    assert [path.name for path in copied.iterdir() if not path.name.startswith(".")] == ["spec.json"]
