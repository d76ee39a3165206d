"""Workers on another machine than the driver, with the storage between the two."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, NoteKind, Want
from jobs.errors import FencedError, WorkersLostError
from jobs.specs import TrainSpec
from jobs.storage.attempt_claim import AttemptClaim, issue_stored_control
from jobs.storage.driver_storage import DriverStorage
from jobs.storage.folder import FolderStore
from jobs.storage.job_files import StoredJobFiles
from jobs.storage.worker_storage import WorkerStorage
from jobs.training.worker import DistributedContext, TrainingTask, train
from seqae.checkpoints.manifest import verify
from tests.daemons import wait_until

JOB, PREFIX = "job_1", "jobs/job_1"


@pytest.fixture
def store(tmp_path: Path, spec: TrainSpec) -> FolderStore:
    """Has the spec, and the first attempt in its control."""
    made = FolderStore(tmp_path / "objects")
    files = StoredJobFiles(tmp_path / "control", made, "file:///x", tmp_path / "node")
    JobFolder(tmp_path / "control" / JOB).write_spec(spec)
    files.publish(JOB, carried_over=False)
    files.issue_control(JOB, Control(attempt=1))
    return made


def _folder(tmp_path: Path, machine: str, attempt: int = 1) -> JobFolder:
    return JobFolder(tmp_path / machine / "jobs" / f"{JOB}-{attempt}" / JOB)


@pytest.fixture
def driver(store: FolderStore, tmp_path: Path) -> Iterator[DriverStorage]:
    """The driver's link, which works."""
    folder = _folder(tmp_path, "driver")
    folder.attempt(1).path.mkdir(parents=True)
    made = DriverStorage(store, folder, 1)
    made.begin()
    made.start()
    yield made
    made.finish(10)


def _known(store: FolderStore, tmp_path: Path) -> JobFolder:
    """The job as another control plane sees it."""
    StoredJobFiles(tmp_path / "other", store, "file:///x", tmp_path / "node").fetch_whole(JOB)
    return JobFolder(tmp_path / "other" / JOB)


def test_a_run_on_another_machine_ends_as_one_on_the_drivers(
    store: FolderStore, driver: DriverStorage, tmp_path: Path, cache_dir: Path
) -> None:
    here, there = _folder(tmp_path, "driver"), _folder(tmp_path, "worker")
    here.attempt(1).add_note(NoteKind.WORKERS_LOST, "the driver's own note")
    worker = WorkerStorage(store, there.path, 1)
    assert not worker.is_at_driver
    worker.begin(writes=True)
    task = TrainingTask(there.path, there.path, 1, cache_dir, None)
    result = train(task, DistributedContext())
    there.attempt(1).add_note(NoteKind.RESUMED, "a note of rank 0")
    worker.finish()
    driver.take_over()

    # The driver has everything that it needs for the rest.
    assert result.checkpoint is not None
    verify(here.path / result.checkpoint)
    assert here.attempt(1).read_report() == there.attempt(1).read_report() is not None
    report = here.attempt(1).read_report()
    assert report is not None
    here.attempt(1).write_report(report.model_copy(update={"model_name": "changed by the driver"}))
    here.attempt(1).write_result(result)
    assert driver.finish(10)

    known = _known(store, tmp_path)
    assert known.attempt(1).read_result() == result
    assert [row.step for row in known.history() if "train/loss" in row.metrics] == list(range(1, 13))
    assert len(list(known.attempt(1).metrics())) == len(list(there.attempt(1).metrics()))
    assert {note.text for note in known.attempt(1).notes()} >= {"the driver's own note", "a note of rank 0"}
    changed = known.attempt(1).read_report()
    assert changed is not None
    assert changed.model_name == "changed by the driver"
    assert known.attempt(1).checkpoint_steps() == there.attempt(1).checkpoint_steps()


def test_the_heartbeat_of_rank_0_counts_and_wishes_reach_it(
    store: FolderStore, driver: DriverStorage, tmp_path: Path
) -> None:
    there = _folder(tmp_path, "worker")
    worker = WorkerStorage(store, there.path, 1)
    worker.begin(writes=True)
    from tests.unit.jobs.storage.test_driver_storage import _progress

    there.attempt(1).write_progress(_progress(77))
    here = _folder(tmp_path, "driver")

    def has_come() -> bool:
        progress = here.attempt(1).read_progress()
        return progress is not None and progress.iteration == 77

    wait_until(has_come, "the heartbeat at the driver")
    issue_stored_control(store, PREFIX, Control(attempt=1, want=Want.PAUSE))
    wait_until(lambda: there.read_control().want is Want.PAUSE, "the pause at rank 0")
    AttemptClaim(store, PREFIX, 2).take()
    (there.path / "attempts/1/result.json").write_text("{}")
    _add_checkpoint(there, 4)
    wait_until(lambda: there.read_control().fences(1), "the fence at rank 0")
    with pytest.raises(FencedError):
        worker.finish(20)
    assert store.get(f"{PREFIX}/attempts/1/result.json") is None
    assert store.get(f"{PREFIX}/attempts/1/checkpoints/4/manifest.json") is None


def _add_checkpoint(folder: JobFolder, step: int) -> Path:
    from seqae.checkpoints import manifest

    draft = folder.path / ".draft"
    draft.mkdir()
    (draft / "model.safetensors").write_bytes(b"weights")
    manifest.write(draft, iteration=step, metrics={})
    path = folder.attempt(1).checkpoints / str(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft.rename(path)
    return path


@pytest.mark.usefixtures("driver")
def test_rank_0_does_not_change_its_machine_within_an_attempt(store: FolderStore, tmp_path: Path) -> None:
    first = WorkerStorage(store, _folder(tmp_path, "worker").path, 1)
    first.begin(writes=True)
    first.finish()
    again = WorkerStorage(store, _folder(tmp_path, "worker").path, 1)
    again.begin(writes=True)
    again.finish()
    with pytest.raises(WorkersLostError):
        WorkerStorage(store, _folder(tmp_path, "third").path, 1).begin(writes=True)
    at_driver = WorkerStorage(store, _folder(tmp_path, "driver").path, 1)
    assert at_driver.is_at_driver
    with pytest.raises(WorkersLostError):
        at_driver.claim_writing()


@pytest.mark.usefixtures("driver")
def test_rank_0_beside_the_driver_says_so(store: FolderStore, tmp_path: Path) -> None:
    at_driver = WorkerStorage(store, _folder(tmp_path, "driver").path, 1)
    at_driver.claim_writing()
    at_driver.claim_writing()
    with pytest.raises(WorkersLostError):
        WorkerStorage(store, _folder(tmp_path, "worker").path, 1).begin(writes=True)


def test_a_worker_of_an_old_attempt_does_not_begin(store: FolderStore, driver: DriverStorage, tmp_path: Path) -> None:
    AttemptClaim(store, PREFIX, 2).take()
    with pytest.raises(FencedError):
        WorkerStorage(store, _folder(tmp_path, "worker").path, 1).begin(writes=True)


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("machine", ["third", "driver"])
def test_other_ranks_wait_for_the_checkpoint_that_rank_0_has(store: FolderStore, tmp_path: Path, machine: str) -> None:
    writer = WorkerStorage(store, _folder(tmp_path, "worker").path, 1)
    writer.begin(writes=True)
    other = WorkerStorage(store, _folder(tmp_path, machine).path, 1)
    if machine == "third":
        other.begin(writes=False)
    path = _folder(tmp_path, machine).attempt(1).checkpoints / "4"
    waiting = threading.Thread(target=other.fetch, args=(path,))
    waiting.start()
    time.sleep(0.2)
    _add_checkpoint(_folder(tmp_path, "worker"), 4)
    waiting.join(60)
    verify(path)
    writer.finish()


def test_without_a_storage_there_is_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEQAE_STORAGE", raising=False)
    assert WorkerStorage.of_environment(tmp_path, 1) is None
    monkeypatch.setenv("SEQAE_STORAGE", f"file://{tmp_path}/objects")
    link = WorkerStorage.of_environment(tmp_path, 1)
    assert link is not None
    assert not link.is_at_driver
