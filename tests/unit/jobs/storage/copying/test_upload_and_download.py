"""A job's folder goes through a storage into another folder, with crashes at every point on the way."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import NoteKind, Outcome, Result
from jobs.errors import FencedError, StorageUnavailable
from jobs.storage.copying.download import JobDownloader
from jobs.storage.copying.upload import JobUploader
from jobs.storage.folder import FolderStore
from jobs.storage.job_objects import PART_BYTES
from jobs.storage.objects import ObjectInfo, ObjectStore, StoredObject
from seqae.checkpoints import manifest

PREFIX = "jobs/job_1"


def _allowed() -> None:
    return None


@pytest.fixture
def here(tmp_path: Path) -> JobFolder:
    """The folder of the machine that trains."""
    return JobFolder(tmp_path / "here" / "job_1")


@pytest.fixture
def there(tmp_path: Path) -> JobFolder:
    """The folder of another machine."""
    return JobFolder(tmp_path / "there" / "job_1")


def _uploader(store: ObjectStore, folder: JobFolder, check_fence: Callable[[], None] = _allowed) -> JobUploader:
    return JobUploader(store, PREFIX, folder.path, check_fence)


def _downloader(store: ObjectStore, folder: JobFolder) -> JobDownloader:
    return JobDownloader(store, PREFIX, folder.path, lambda _: True)


def _add_checkpoint(folder: JobFolder, step: int, attempt: int = 1) -> Path:
    path = folder.attempt(attempt).checkpoints / str(step)
    path.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "trainer.pt"):
        (path / name).write_bytes(f"{name} of {step}".encode())
    manifest.write(path, iteration=step, metrics={})
    return path


def _run_of(folder: JobFolder) -> None:
    """An attempt that has ended."""
    attempt = folder.attempt(1)
    attempt.add_metrics(4, {"val/mse": 0.5}, now=1.0)
    attempt.add_note(NoteKind.RESUMED, "from iteration 0 of 12")
    attempt.log.write_bytes(b"a line\nhalf a li")
    attempt.frames.mkdir()
    (attempt.frames / "4.png").write_bytes(b"png")
    _add_checkpoint(folder, 4)
    attempt.write_result(Result(outcome=Outcome.SUCCEEDED, checkpoint="attempts/1/checkpoints/4"))


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def test_a_run_arrives_as_it_is(store: ObjectStore, here: JobFolder, there: JobFolder) -> None:
    _run_of(here)
    _uploader(store, here).upload()
    _downloader(store, there).download()
    expected = _tree(here.path)
    # The line that was being written comes when it is whole.
    expected["attempts/1/driver.log"] = b"a line\n"
    assert _tree(there.path) == expected


def test_what_stays_on_its_machine_stays(here: JobFolder, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "objects")
    here.attempt(1).add_metrics(1, {"a": 1.0})
    for name in ("shipped.lock", "attempts/1/train/workers/state.json", "attempts/1/.metrics.tmp", "control.json"):
        (here.path / name).parent.mkdir(parents=True, exist_ok=True)
        (here.path / name).write_text("{}")
    (tmp_path / "secret").write_text("secret")
    (here.path / "link").symlink_to(tmp_path / "secret")
    _uploader(store, here).upload()
    assert [info.key for info in store.list("")] == [f"{PREFIX}/attempts/1/metrics.jsonl.parts/000000000000"]


def test_appended_files_go_in_parts_and_arrive_in_order(here: JobFolder, there: JobFolder, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "objects")
    up, down = _uploader(store, here), _downloader(store, there)
    log, copy = here.attempt(1).log, there.attempt(1).log
    log.parent.mkdir(parents=True)
    lines = [b"%07d\n" % number for number in range(3 * PART_BYTES // 8 + 100)]
    for start in range(0, len(lines), 20_001):
        with log.open("ab") as file:
            file.write(b"".join(lines[start : start + 20_001]))
        up.upload()
        down.download()
        assert copy.read_bytes() == log.read_bytes()
    assert [info.size for info in store.list("")] == [PART_BYTES] * 3 + [800]


def test_a_new_uploader_goes_on_without_doubles(store: ObjectStore, here: JobFolder, there: JobFolder) -> None:
    attempt = here.attempt(1)
    attempt.add_metrics(1, {"a": 1.0}, now=1.0)
    _uploader(store, here).upload()
    attempt.add_metrics(2, {"a": 2.0}, now=2.0)
    again = _uploader(store, here)
    again.adopt(store.list(PREFIX))
    again.upload()
    attempt.add_metrics(3, {"a": 3.0}, now=3.0)
    _uploader(store, here).upload()
    _downloader(store, there).download()
    assert [row.step for row in there.attempt(1).metrics()] == [1, 2, 3]


def test_a_new_downloader_goes_on_without_doubles(store: ObjectStore, here: JobFolder, there: JobFolder) -> None:
    for step in (1, 2):
        here.attempt(1).add_metrics(step, {"a": 1.0}, now=1.0)
        _uploader(store, here).upload()
        _downloader(store, there).download()
    assert [row.step for row in there.attempt(1).metrics()] == [1, 2]


class _Counting(FolderStore):
    """Counts what is asked of it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.calls: list[str] = []

    def put(self, key: str, content: bytes | Path) -> None:
        self.calls.append(f"put {key}")
        super().put(key, content)

    def get(self, key: str) -> StoredObject | None:
        self.calls.append(f"get {key}")
        return super().get(key)

    def download(self, key: str, path: Path) -> bool:
        self.calls.append(f"download {key}")
        return super().download(key, path)


def test_what_is_there_already_is_not_copied_again(here: JobFolder, there: JobFolder, tmp_path: Path) -> None:
    store = _Counting(tmp_path / "objects")
    _run_of(here)
    up, down = _uploader(store, here), _downloader(store, there)
    up.upload()
    down.download()
    store.calls.clear()
    up.upload()
    down.download()
    assert store.calls == []
    adopted = _uploader(store, here)
    adopted.adopt(store.list(PREFIX))
    adopted.upload()
    assert store.calls == []


class _Dying(FolderStore):
    """Dies after so many writes."""

    def __init__(self, root: Path, writes: int) -> None:
        super().__init__(root)
        self.remaining = writes

    def put(self, key: str, content: bytes | Path) -> None:
        if self.remaining == 0:
            raise StorageUnavailable("gone")
        self.remaining -= 1
        super().put(key, content)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self.remaining == 0:
                raise StorageUnavailable("gone")
            self.remaining -= 1
            super().delete([key])


@pytest.mark.parametrize("writes", range(9))
def test_a_crash_at_any_point_leaves_what_can_be_read(
    here: JobFolder, there: JobFolder, tmp_path: Path, writes: int
) -> None:
    _run_of(here)
    with pytest.raises(StorageUnavailable):
        _uploader(_Dying(tmp_path / "objects", writes), here).upload()
    store = FolderStore(tmp_path / "objects")
    _downloader(store, there).download()
    steps = there.attempt(1).checkpoint_steps()
    for step in steps:
        manifest.verify(there.attempt(1).checkpoints / str(step))
        assert [row.step for row in there.attempt(1).metrics()] == [4]  # the rows up to it are there
    if there.attempt(1).read_result() is not None:
        assert steps == [4]
    # Another uploader finishes it.
    _uploader(store, here).upload()
    _downloader(store, there).download()
    assert there.attempt(1).read_result() is not None
    assert there.attempt(1).checkpoint_steps() == [4]


def test_nine_writes_are_all_that_the_crashes_go_through(here: JobFolder, tmp_path: Path) -> None:
    _run_of(here)
    dying = _Dying(tmp_path / "objects", 9)
    _uploader(dying, here).upload()
    assert dying.remaining == 0


def test_a_checkpoint_without_its_manifest_is_never_taken(
    store: ObjectStore, here: JobFolder, there: JobFolder
) -> None:
    path = _add_checkpoint(here, 4)
    for name in ("config.json", "model.safetensors", "trainer.pt"):
        store.put(f"{PREFIX}/attempts/1/checkpoints/4/{name}", path / name)
    _downloader(store, there).download()
    assert there.checkpoint_paths() == []
    _uploader(store, here).remove_unfinished(store.list(PREFIX))
    assert store.list(PREFIX) == []


@pytest.mark.parametrize("damage", ["missing", "other"])
def test_a_checkpoint_that_is_not_what_its_manifest_says_is_never_taken(
    here: JobFolder, there: JobFolder, tmp_path: Path, damage: str
) -> None:
    store = FolderStore(tmp_path / "objects")
    _add_checkpoint(here, 4)
    _add_checkpoint(here, 8)
    _uploader(store, here).upload()
    key = f"{PREFIX}/attempts/1/checkpoints/8/model.safetensors"
    if damage == "missing":
        store.delete([key])
    else:
        store.put(key, b"model.safetensors of 9")
    _downloader(store, there).download()
    assert [path.name for path in there.checkpoint_paths()] == ["4"]
    assert [path.name for path in there.attempt(1).checkpoints.iterdir()] == ["4"]


def test_a_manifest_that_leads_out_of_its_folder_is_not_followed(there: JobFolder, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "objects")
    entry = {"bytes": 1, "sha256": "0"}
    described = {"format_version": 4, "iteration": 4, "metrics": {}, "files": {"../../../../evil": entry}}
    store.put(f"{PREFIX}/attempts/1/checkpoints/4/manifest.json", json.dumps(described).encode())
    _downloader(store, there).download()
    assert there.checkpoint_paths() == []
    assert not list(tmp_path.rglob("evil"))


def test_a_checkpoint_that_was_pruned_is_removed_from_the_storage(store: ObjectStore, here: JobFolder) -> None:
    up = _uploader(store, here)
    old = _add_checkpoint(here, 4)
    up.upload()
    _add_checkpoint(here, 8)
    for file in old.iterdir():
        file.unlink()
    old.rmdir()
    up.upload()
    assert {info.key.split("/")[5] for info in store.list(PREFIX)} == {"8"}


def test_a_checkpoint_that_was_never_here_is_left_in_the_storage(store: ObjectStore, here: JobFolder) -> None:
    _add_checkpoint(here, 4)
    _uploader(store, here).upload()
    elsewhere = JobFolder(here.path.with_name("elsewhere"))
    other = _uploader(store, elsewhere)
    _add_checkpoint(elsewhere, 8, attempt=2)
    other.adopt(store.list(PREFIX))
    other.upload()
    found = {info.key.split("/")[5] for info in store.list(PREFIX)}
    assert found == {"4", "8"}


def test_a_checkpoint_is_removed_manifest_first(here: JobFolder, tmp_path: Path) -> None:
    store = _Dying(tmp_path / "objects", 4)
    up = _uploader(store, here)
    path = _add_checkpoint(here, 4)
    up.upload()
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    store.remaining = 1
    with pytest.raises(StorageUnavailable):
        up.upload()
    left = [info.key.rpartition("/")[2] for info in store.list(PREFIX)]
    assert left == ["config.json", "model.safetensors", "trainer.pt"]


def test_a_fenced_uploader_commits_no_checkpoint_and_no_result(here: JobFolder, tmp_path: Path) -> None:
    def refuse() -> None:
        raise FencedError("attempt 2 has taken over")

    store = FolderStore(tmp_path / "objects")
    _run_of(here)
    with pytest.raises(FencedError):
        _uploader(store, here, refuse).upload()
    names = {info.key.rpartition("/")[2] for info in store.list(PREFIX)}
    assert "manifest.json" not in names
    assert "result.json" not in names


class _Racing(FolderStore):
    """Has more objects after it was listed once."""

    def __init__(self, root: Path, race: Callable[[], None]) -> None:
        super().__init__(root)
        self._race: Callable[[], None] | None = race

    def list(self, prefix: str) -> "list[ObjectInfo]":
        listed = super().list(prefix)
        race, self._race = self._race, None
        if race is not None:
            race()
            # The end of a long list shows what came while its beginning was read.
            listed += [info for info in super().list(prefix) if info.key.endswith("result.json")]
        return listed


def test_beside_a_result_all_is_there_that_was_written_before_it(
    here: JobFolder, there: JobFolder, tmp_path: Path
) -> None:
    def end() -> None:
        _run_of(here)
        _uploader(FolderStore(tmp_path / "objects"), here).upload()

    here.write_shipped(here.read_shipped())
    _uploader(FolderStore(tmp_path / "objects"), here).upload()
    _downloader(_Racing(tmp_path / "objects", end), there).download()
    assert there.attempt(1).read_result() is not None
    assert there.attempt(1).checkpoint_steps() == [4]
