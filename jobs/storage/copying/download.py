"""Downloader of a job folder: copies what is new in an object storage into a local folder, for readers of files."""

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from jobs.storage.job_objects import CHECKPOINT_MANIFEST, FileKind, Part, kind_of, parse_part
from jobs.storage.objects import ObjectInfo, ObjectStore
from seqae.checkpoints.manifest import Manifest, verify
from seqae.errors import CheckpointError

__all__ = ["JobDownloader"]

logger = logging.getLogger(__name__)

# Never written again under the same name, so that a file of the same size is the same.
_NEVER_REWRITTEN = ("frames", "artifacts")


class JobDownloader:
    """Copies one job's objects into a folder, which then looks as the uploader's did at some moment.

    Args:
        store: the storage.
        prefix: of the job's objects.
        folder: of the job.
        wants: whether a file is wanted, by its path relative to the folder; of a checkpoint, by its manifest's.
    """

    def __init__(self, store: ObjectStore, prefix: str, folder: Path, wants: Callable[[str], bool]) -> None:
        self._store = store
        self._prefix = prefix
        self._folder = folder
        self._wants = wants
        self._etags: dict[str, str] = {}
        self._lock = threading.Lock()

    def download(self) -> list[ObjectInfo]:
        """Copies what is new, and gives the job's objects as they were listed last.

        Raises:
            StorageUnavailable, StorageRefused: the rest is for the next call.
            OSError: the disk is full, or the folder can't be written.
        """
        listed = self._list()
        if not listed:
            return []
        self._folder.mkdir(parents=True, exist_ok=True)
        # Two processes of a control plane may share the folder.
        with self._lock, FileLock(self._folder / ".download.lock"):
            if any(kind_of(name) is FileKind.RESULT and self._is_new(name, info) for name, info in listed.items()):
                # The first list may have been begun before the last objects beside the result were written.
                listed = self._list()
            self._download(listed)
        return list(listed.values())

    def _list(self) -> dict[str, ObjectInfo]:
        start = f"{self._prefix}/"
        return {info.key.removeprefix(start): info for info in self._store.list(self._prefix)}

    def _download(self, listed: dict[str, ObjectInfo]) -> None:
        parts: dict[str, list[tuple[Part, ObjectInfo]]] = {}
        results: list[str] = []
        checkpoints: list[str] = []
        # In the order of the uploader: a file may speak of a folder beside it.
        for name, info in sorted(listed.items(), key=lambda item: -item[0].count("/")):
            part = parse_part(name)
            if part is not None:
                parts.setdefault(part.path, []).append((part, info))
                continue
            kind = kind_of(name)
            if kind is FileKind.RESULT:
                results.append(name)
            elif kind is FileKind.CHECKPOINT and name.endswith(f"/{CHECKPOINT_MANIFEST}"):
                checkpoints.append(name)
            elif kind is FileKind.WHOLE:
                self._download_file(name, info)
        for path, of_file in parts.items():
            if self._wants(path):
                self._join(path, of_file)
        for name in sorted(checkpoints, key=_step, reverse=True):
            if self._wants(name):
                self._download_checkpoint(name, listed[name])
        for name in results:
            self._download_file(name, listed[name])

    def _is_new(self, name: str, info: ObjectInfo) -> bool:
        return self._wants(name) and self._etags.get(name) != info.etag

    def _download_file(self, name: str, info: ObjectInfo) -> None:
        if not self._is_new(name, info):
            return
        path = self._folder / name
        is_here = any(part in _NEVER_REWRITTEN for part in name.split("/")) and _size(path) == info.size
        if is_here or self._store.download(info.key, path):
            self._etags[name] = info.etag

    def _join(self, path: str, parts: list[tuple[Part, ObjectInfo]]) -> None:
        """Appends to a file what its parts have beyond its end."""
        file = self._folder / path
        size = _size(file) or 0
        for part, info in sorted(parts, key=lambda item: item[0].start):
            if part.start + info.size <= size:
                continue
            if part.start > size:
                logger.warning("%s: a part is missing at byte %d", file, size)
                return
            found = self._store.get(info.key)
            if found is None:
                return
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as appended:
                appended.write(found.content[size - part.start :])
            size = max(size, part.start + len(found.content))

    def _download_checkpoint(self, name: str, info: ObjectInfo) -> None:
        """Copies a checkpoint into a draft, verifies it, and gives it its name; one that is not whole is left out."""
        if not self._is_new(name, info):
            return
        target = (self._folder / name).parent
        found = self._store.get(info.key)
        if found is None:
            return
        if not _holds(target / CHECKPOINT_MANIFEST, found.content):
            draft = target.with_name(f".{target.name}.download.tmp")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            try:
                self._fill(draft, info.key.rpartition("/")[0], found.content)
                verify(draft)
                shutil.rmtree(target, ignore_errors=True)
                draft.rename(target)
            except CheckpointError as error:
                # It is being removed, or was damaged on its way: an older one is there.
                logger.warning("%s is left out: %s", target, error)
                return
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        self._etags[name] = info.etag

    def _fill(self, draft: Path, prefix: str, content: bytes) -> None:
        """Writes the files that a manifest names, and the manifest. Raises: CheckpointError."""
        try:
            manifest = Manifest.model_validate_json(content)
        except ValidationError as error:
            raise CheckpointError(f"{prefix}: its {CHECKPOINT_MANIFEST} is no manifest") from error
        for file in manifest.files:
            if file != Path(file).name or not self._store.download(f"{prefix}/{file}", draft / file):
                raise CheckpointError(f"{prefix}: a file of its manifest is missing")
        (draft / CHECKPOINT_MANIFEST).write_bytes(content)


def _step(manifest: str) -> tuple[int, str]:
    """The newest checkpoint is copied first."""
    step = manifest.split("/")[-2]
    return (int(step) if step.isascii() and step.isdecimal() else -1), manifest


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False
