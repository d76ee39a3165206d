"""Uploader of a job folder: copies what is new in it into an object storage, in an order that a crash can't harm."""

import logging
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from jobs.storage.job_objects import (
    CHECKPOINT_MANIFEST,
    PART_BYTES,
    FileKind,
    kind_of,
    parse_part,
    part_key,
)
from jobs.storage.objects import ObjectInfo, ObjectStore, is_safe_key

__all__ = ["JobUploader"]

logger = logging.getLogger(__name__)

_Version = tuple[int, int, int]
"""Inode, time of the last change in nanoseconds, and bytes of a file: another version has others."""


class JobUploader:
    """Copies one job's folder into a storage. One uploader at a time may work on a job's objects.

    Everything but results first, then checkpoints, each with its manifest last, then results. What can't be written
    stays for the next call. Files that vanish meanwhile are left out; of them, checkpoints alone are removed from the
    storage too, since the folder's retention decides which are kept.

    Args:
        store: the storage.
        prefix: of the job's objects.
        folder: of the job.
        check_fence: called before a checkpoint or a result is committed; what it raises stops the upload.
        owns: whether a file is this uploader's, by its path relative to the folder; others are left alone.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        folder: Path,
        check_fence: Callable[[], None],
        owns: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._folder = folder
        self._check_fence = check_fence
        self._owns = owns
        self.rename: Mapping[str, str] = {}
        """Other names of files that are appended to, in the storage."""
        self._uploaded: dict[str, _Version] = {}
        self._bytes: dict[str, int] = {}
        """Of each file that is appended to: how many are in the storage."""
        self._checkpoints: dict[str, _Version] = {}
        """Those that are in the storage, by their folders; with the version of their manifest."""

    def adopt(self, listed: Iterable[ObjectInfo]) -> None:
        """Takes for uploaded what is in the storage with the same size as in the folder.

        Args:
            listed: the job's objects.
        """
        for info in listed:
            name = info.key.removeprefix(f"{self._prefix}/")
            part = parse_part(name)
            if part is not None:
                path = next((own for own, other in self.rename.items() if other == part.path), part.path)
                self._bytes[path] = max(self._bytes.get(path, 0), part.start + info.size)
                continue
            version = _version(self._folder / name)
            if version is None or version[2] != info.size:
                continue
            self._uploaded[name] = version
            if kind_of(name) is FileKind.CHECKPOINT and name.endswith(f"/{CHECKPOINT_MANIFEST}"):
                self._checkpoints[name.rpartition("/")[0]] = version

    def hand_over(self, owns: Callable[[str], bool]) -> None:
        """From now on other files are this uploader's.

        Args:
            owns: see the class.
        """
        self._owns = owns
        self._checkpoints = {folder: manifest for folder, manifest in self._checkpoints.items() if owns(f"{folder}/x")}

    def remove_unfinished(self, listed: Iterable[ObjectInfo]) -> None:
        """Removes what killed uploaders have left of checkpoints that never got their manifest.

        Args:
            listed: the job's objects.
        """
        names = [info.key.removeprefix(f"{self._prefix}/") for info in listed]
        of_checkpoints = [name for name in names if kind_of(name) is FileKind.CHECKPOINT]
        whole = {name.rpartition("/")[0] for name in of_checkpoints if name.endswith(f"/{CHECKPOINT_MANIFEST}")}
        left = [name for name in of_checkpoints if name.rpartition("/")[0] not in whole]
        self._store.delete(f"{self._prefix}/{name}" for name in left)

    def upload(self) -> None:
        """Copies what is new.

        Raises:
            StorageUnavailable, StorageRefused: the rest is for the next call.
            FencedError: `check_fence` says so.
        """
        # Results first: what lies in the folder beside a result is all that the attempt has written.
        results = [name for name in self._files() if kind_of(name) is FileKind.RESULT]
        # Then checkpoints: the rows up to a checkpoint are written before it, and are uploaded before it below.
        checkpoints = self._local_checkpoints()
        for name in self._files():
            kind = kind_of(name)
            if kind is FileKind.APPENDED:
                self._upload_parts(name)
            elif kind is FileKind.WHOLE:
                self.upload_file(name)
        for folder, manifest in checkpoints.items():
            if self._checkpoints.get(folder) != manifest:
                self._upload_checkpoint(folder, manifest)
        self._remove_checkpoints(set(self._checkpoints) - set(checkpoints))
        for name in results:
            if self._is_new(name):
                self._check_fence()
                self.upload_file(name)

    def upload_file(self, name: str) -> None:
        """Copies a file that is replaced in one step, if it is new; one that is not there is left out.

        Args:
            name: relative to the job's folder, with slashes.
        """
        version = _version(self._folder / name)
        if version is None or self._uploaded.get(name) == version:
            return
        try:
            self._store.put(f"{self._prefix}/{name}", self._folder / name)
        except FileNotFoundError:
            return
        # A file that was replaced while it was read has another version now, and goes up again.
        self._uploaded[name] = version

    def _is_new(self, name: str) -> bool:
        return self._uploaded.get(name) != _version(self._folder / name)

    def _upload_parts(self, name: str) -> None:
        """Copies the whole lines that were appended since."""
        done = self._bytes.get(name, 0)
        try:
            with (self._folder / name).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                while done < size:
                    start = done - done % PART_BYTES
                    file.seek(start)
                    content = file.read(PART_BYTES)
                    if start + len(content) >= size:
                        # A line that is being written comes with the next call.
                        content = content[: content.rfind(b"\n") + 1]
                    if start + len(content) <= done:
                        return
                    self._store.put(f"{self._prefix}/{part_key(self.rename.get(name, name), start)}", content)
                    done = self._bytes[name] = start + len(content)
                    if len(content) < PART_BYTES:
                        return
        except FileNotFoundError:
            return

    def _upload_checkpoint(self, folder: str, manifest: _Version) -> None:
        names = [name for name in self._files(folder) if not name.endswith(f"/{CHECKPOINT_MANIFEST}")]
        last = f"{folder}/{CHECKPOINT_MANIFEST}"
        if folder in self._checkpoints:
            # It was written anew, under the same name: until it is whole, there is none.
            self._store.delete([f"{self._prefix}/{last}"])
            del self._checkpoints[folder]
        try:
            for name in names:
                self._store.put(f"{self._prefix}/{name}", self._folder / name)
            content = (self._folder / last).read_bytes()
        except FileNotFoundError:
            # It was removed meanwhile, since a newer one is there.
            self._delete_checkpoint(folder)
            return
        if _version(self._folder / last) != manifest:
            return
        self._check_fence()
        self._store.put(f"{self._prefix}/{last}", content)
        self._checkpoints[folder] = manifest

    def _remove_checkpoints(self, folders: Iterable[str]) -> None:
        for folder in folders:
            self._check_fence()
            self._delete_checkpoint(folder)
            del self._checkpoints[folder]

    def _delete_checkpoint(self, folder: str) -> None:
        self._store.delete([f"{self._prefix}/{folder}/{CHECKPOINT_MANIFEST}"])
        self._store.delete(info.key for info in self._store.list(f"{self._prefix}/{folder}"))

    def _local_checkpoints(self) -> dict[str, _Version]:
        """The folders of the checkpoints that are whole, oldest first; with the version of their manifest."""
        found: dict[str, _Version] = {}
        for name in self._files():
            if kind_of(name) is FileKind.CHECKPOINT and name.endswith(f"/{CHECKPOINT_MANIFEST}"):
                version = _version(self._folder / name)
                if version is not None:
                    found[name.rpartition("/")[0]] = version
        return dict(sorted(found.items(), key=lambda item: item[1][1]))

    def _files(self, below: str = "") -> list[str]:
        """Files that belong into the storage, relative to the job's folder, the deepest first; links are left out."""
        found: list[str] = []
        for folder, folders, names in os.walk(self._folder / below):
            relative = Path(folder).relative_to(self._folder).as_posix()
            start = "" if relative == "." else f"{relative}/"
            folders[:] = [name for name in folders if kind_of(f"{start}{name}/x") is not FileKind.LOCAL]
            found += [f"{start}{name}" for name in names]
        kinds = (FileKind.LOCAL, FileKind.CONTROL)
        chosen = (name for name in found if kind_of(name) not in kinds and is_safe_key(name) and self._owns(name))
        # A file may speak of a folder beside it, as start.json does: what lies deeper comes first.
        return sorted(chosen, key=lambda name: (-name.count("/"), name))


def _version(path: Path) -> _Version | None:
    """The version of a file; None where there is none, or where it is no plain file."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
