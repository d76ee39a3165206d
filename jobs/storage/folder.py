"""Object storage in a folder: one file for each object. For a file system that all machines share, and for tests."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

from jobs.directory.files import write_atomically
from jobs.errors import StorageRefused
from jobs.storage.objects import ObjectInfo, StoredObject, is_safe_key

__all__ = ["FolderStore", "copy_atomically"]

_LOCK = ".conditional-writes.lock"


class FolderStore:
    """Objects as files below a folder. See `jobs.storage.objects.ObjectStore` for the methods.

    Conditional writes take turns by a lock on a file, so the file system must have locks.

    Args:
        root: the folder; it is made with the first object.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, content: bytes | Path) -> None:
        """Writes an object, whatever was there."""
        path = self._path(key)
        if isinstance(content, bytes):
            write_atomically(path, content)
        else:
            copy_atomically(content, path)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Writes an object unless there is one with other content."""
        return self._put_if(key, content, None)

    def put_if_match(self, key: str, content: bytes, etag: str) -> bool:
        """Writes an object if its etag is still this one."""
        return self._put_if(key, content, etag)

    def get(self, key: str) -> StoredObject | None:
        """An object as a whole, or None where there is none."""
        try:
            with self._path(key).open("rb") as file:
                return StoredObject(file.read(), _etag(os.fstat(file.fileno())))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def download(self, key: str, path: Path) -> bool:
        """Copies an object into a file."""
        source = self._path(key)
        if not source.is_file():
            return False
        try:
            copy_atomically(source, path)
        except FileNotFoundError:
            if source.exists():
                raise
            return False  # removed meanwhile
        return True

    def list(self, prefix: str) -> list[ObjectInfo]:
        """The objects below a folder, however deep, by key."""
        start = self._path(prefix) if prefix else self._root
        found = []
        for folder, folders, names in os.walk(start):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(folder) / name
                key = path.relative_to(self._root).as_posix()
                if is_safe_key(key) and (info := _info(key, path)) is not None:
                    found.append(info)
        return sorted(found, key=lambda info: info.key)

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects, and folders that are empty then."""
        for key in keys:
            path = self._path(key)
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self._root or not _remove_if_empty(parent):
                    break

    def _put_if(self, key: str, content: bytes, etag: str | None) -> bool:
        self._root.mkdir(parents=True, exist_ok=True)
        with FileLock(self._root / _LOCK):
            known = self.get(key)
            if known is not None and known.content == content:
                return True
            if (None if known is None else known.etag) != etag:
                return False
            self.put(key, content)
            return True

    def _path(self, key: str) -> Path:
        if not is_safe_key(key):
            raise StorageRefused(f"{key!r} is no key of an object")
        return self._root / key


def copy_atomically(source: Path, target: Path) -> None:
    """Copies a file; the copy gets its name last. Raises: OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with source.open("rb") as reader, os.fdopen(handle, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
        Path(draft).replace(target)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _info(key: str, path: Path) -> ObjectInfo | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None  # removed meanwhile
    return ObjectInfo(key, status.st_size, _etag(status))


def _etag(status: os.stat_result) -> str:
    # Every write makes another file, so its inode says more than its time does.
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def _remove_if_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
