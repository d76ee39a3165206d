"""Protocol of an object storage (`ObjectStore`): whole objects under keys, with conditional writes, and no renames.

`jobs.storage.folder.FolderStore` keeps objects as files, `jobs.storage.bucket.BucketStore` in S3, Google Cloud Storage
or Azure. Both pass the same tests.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

__all__ = ["ObjectInfo", "ObjectStore", "StoredObject", "is_safe_key"]


@dataclass(frozen=True)
class ObjectInfo:
    """An object in a listing."""

    key: str
    size: int
    """Bytes."""
    etag: str
    """Changes whenever the content does."""


@dataclass(frozen=True)
class StoredObject:
    """An object with its content."""

    content: bytes
    etag: str


class ObjectStore(Protocol):
    """Objects under keys such as `jobs/job_1/spec.json`. Readers see an object whole, or not at all.

    Every method may raise StorageUnavailable (nothing is known; repeating is safe) and StorageRefused.
    """

    def put(self, key: str, content: bytes | Path) -> None:
        """Writes an object, whatever was there.

        Args:
            key: of the object.
            content: its bytes, or a file that has them.

        Raises:
            OSError: the file can't be read.
        """

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Writes an object unless there is one with other content; whether it has this content now.

        A write whose answer was lost is found by its content when it is repeated, so where it matters who has written,
        the content must name the writer.
        """

    def put_if_match(self, key: str, content: bytes, etag: str) -> bool:
        """Writes an object if its etag is still this one; whether it has this content now. See `put_if_absent`."""

    def get(self, key: str) -> StoredObject | None:
        """An object as a whole, or None where there is none. For small ones; see `download`."""

    def download(self, key: str, path: Path) -> bool:
        """Writes an object into a file, piece by piece, and gives the file its name last; whether there was one.

        Args:
            key: of the object.
            path: of the file, which is replaced; its folder is made where it is missing.

        Raises:
            OSError: the file can't be written.
        """

    def list(self, prefix: str) -> list[ObjectInfo]:
        """The objects below a folder, however deep, by key.

        Args:
            prefix: keys start with it and a slash; empty: all objects.
        """

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects; those that are not there are fine."""


def is_safe_key(key: str) -> bool:
    """Whether a key can be a path below a folder: others' objects in a bucket must not lead out of it."""
    parts = key.split("/")
    return bool(key) and all(
        part and not part.startswith(".") and part == PurePosixPath(part).name and "\0" not in part and "\\" not in part
        for part in parts
    )
