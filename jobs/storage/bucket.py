"""Object storage in a bucket of S3, Google Cloud Storage or Azure, through obstore.

Credentials come from the environment of the process, as the service's own tools read them (AWS_ACCESS_KEY_ID, ...), or
from the machine's role. Nothing here logs or quotes what the service answers: it may name keys.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jobs.errors import StorageRefused, StorageUnavailable
from jobs.storage.objects import ObjectInfo, StoredObject, is_safe_key

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

__all__ = ["BucketStore", "Timeouts"]

ResultT = TypeVar("ResultT")

_TRIES = 3
"""So often a conditional write is tried whose answer was lost."""

_DELETED_AT_ONCE = 1000

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role of the machine",
    "gs": "GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS, or a role of the machine",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or a role of the machine",
}

# What the services call it when there is no such bucket.
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
# Where machines in a cloud are asked for their role: tried where no key was named.
_ROLE_ADDRESSES = ("169.254.169.254", "metadata.google.internal", "/latest/api/token")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_STATUS = re.compile(r"status code: ([0-9]{3})")


@dataclass(frozen=True)
class Timeouts:
    """How long requests may take, in seconds, and how often they are tried again."""

    connect: float = 5.0
    """To be connected."""
    read: float = 20.0
    """Between two pieces of an answer."""
    retries: int = 4
    """After answers that say "later", and lost connections."""

    def client(self) -> "ClientConfig":
        """The options of the HTTP client. Plain HTTP is for endpoints that the user has named so."""
        endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
        return {
            "connect_timeout": timedelta(seconds=self.connect),
            "read_timeout": timedelta(seconds=self.read),
            "timeout": timedelta(seconds=30 * self.read),
            "allow_http": endpoint.startswith("http://"),
        }

    def retry(self) -> "RetryConfig":
        """How the client tries again."""
        return {
            "max_retries": self.retries,
            "retry_timeout": timedelta(seconds=self.read * (self.retries + 1)),
            "backoff": {
                "init_backoff": timedelta(seconds=0.1),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        }


class BucketStore:
    """Objects in a bucket. See `jobs.storage.objects.ObjectStore` for the methods.

    Args:
        url: of the bucket and a prefix, such as s3://bucket/prefix.
        timeouts: None: the usual ones.

    Raises:
        StorageRefused: the URL can't be understood.
    """

    def __init__(self, url: str, timeouts: Timeouts | None = None) -> None:
        import obstore.store

        self._scheme = url.partition(":")[0]
        timeouts = timeouts or Timeouts()
        with self._errors():
            self._store = obstore.store.from_url(url, client_options=timeouts.client(), retry_config=timeouts.retry())

    def put(self, key: str, content: bytes | Path) -> None:
        """Writes an object, whatever was there."""
        import obstore

        with self._errors():
            obstore.put(self._store, _checked(key), content)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Writes an object unless there is one with other content."""
        import obstore

        return self._conditional(key, content, lambda: obstore.put(self._store, key, content, mode="create"))

    def put_if_match(self, key: str, content: bytes, etag: str) -> bool:
        """Writes an object if its etag is still this one."""
        import obstore

        return self._conditional(key, content, lambda: obstore.put(self._store, key, content, mode={"e_tag": etag}))

    def get(self, key: str) -> StoredObject | None:
        """An object as a whole, or None where there is none."""
        import obstore

        try:
            with self._errors():
                found = obstore.get(self._store, _checked(key))
                return StoredObject(bytes(found.bytes()), found.meta["e_tag"] or "")
        except FileNotFoundError:
            return None

    def download(self, key: str, path: Path) -> bool:
        """Writes an object into a file, piece by piece; a transfer that is cut off leaves the file as it was."""
        import obstore

        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in self._stream(lambda: obstore.get(self._store, _checked(key)).stream()):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            Path(draft).replace(path)
        except _MissingObjectError:
            Path(draft).unlink(missing_ok=True)
            return False
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
        return True

    def list(self, prefix: str) -> list[ObjectInfo]:
        """The objects below a folder, however deep, by key. Objects with odd keys are left out: they are not ours."""
        import obstore

        found = []
        try:
            with self._errors():
                for chunk in obstore.list(self._store, prefix or None, chunk_size=1000):
                    found += [ObjectInfo(meta["path"], meta["size"], meta["e_tag"] or "") for meta in chunk]
        except FileNotFoundError:
            return []
        return sorted((info for info in found if is_safe_key(info.key)), key=lambda info: info.key)

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects; those that are not there are fine."""
        import obstore

        names = [_checked(key) for key in keys]
        for start in range(0, len(names), _DELETED_AT_ONCE):
            try:
                with self._errors():
                    obstore.delete(self._store, names[start : start + _DELETED_AT_ONCE])
            except FileNotFoundError:
                # Not every service is silent about what is gone; the others of the batch are removed one by one.
                self._delete_singly(names[start : start + _DELETED_AT_ONCE])

    def _delete_singly(self, names: Iterable[str]) -> None:
        import obstore

        for name in names:
            try:
                with self._errors():
                    obstore.delete(self._store, name)
            except FileNotFoundError:
                continue

    def _conditional(self, key: str, content: bytes, write: Callable[[], object]) -> bool:
        """Writes under a condition; where the condition does not hold, an earlier try of ours may have won."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        _checked(key)
        for remaining in reversed(range(_TRIES)):
            try:
                with self._errors(AlreadyExistsError, PreconditionError):
                    write()
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                known = self.get(key)
                return known is not None and known.content == content
            except StorageUnavailable:
                if not remaining:
                    raise
            else:
                return True
        raise AssertionError("unreachable")

    def _stream(self, start: Callable[[], Iterable[ResultT]]) -> Iterator[ResultT]:
        """The pieces of an answer, with errors of the service mapped, and those of the caller let through."""
        try:
            with self._errors():
                pieces = iter(start())
        except FileNotFoundError as error:
            raise _MissingObjectError from error
        while True:
            with self._errors():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    @contextmanager
    def _errors(self, *passed: type[Exception]) -> Iterator[None]:
        """Maps obstore's errors, whose texts have the answer in them, to ours, which don't; FileNotFoundError passes.

        Args:
            *passed: let through as they are.
        """
        from obstore.exceptions import BaseError

        try:
            yield
        except passed:
            raise
        except FileNotFoundError as error:
            if _has(str(error), _NO_BUCKET):
                raise StorageRefused("there is no such bucket") from None
            raise
        except (BaseError, ValueError) as error:
            raise _mapped(error, self._scheme) from None


class _MissingObjectError(Exception):
    """There is no such object; files of this machine may be missing as well, so this is not FileNotFoundError."""


def _mapped(error: Exception, scheme: str) -> StorageRefused | StorageUnavailable:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    text = str(error)
    code, status = _CODE.search(text), _STATUS.search(text)
    said = code[1] if code else f"HTTP {status[1]}" if status else type(error).__name__
    if _has(text, _ROLE_ADDRESSES):
        return StorageRefused(f"no credentials: set {_CREDENTIALS.get(scheme, 'those of the service')}")
    if _has(text, _NO_BUCKET):
        return StorageRefused("there is no such bucket")
    if isinstance(error, UnauthenticatedError):
        return StorageRefused(f"the credentials are refused ({said})")
    if isinstance(error, PermissionDeniedError):
        return StorageRefused(f"no permission, or wrong credentials ({said})")
    if isinstance(error, ValueError):
        return StorageRefused("the address of the storage can't be understood")
    if status and status[1].startswith("4") and status[1] not in ("408", "409", "429"):
        return StorageRefused(f"the storage refuses ({said})")
    return StorageUnavailable(f"the storage does not answer as it should ({said})")


def _has(text: str, words: Iterable[str]) -> bool:
    return any(word in text for word in words)


def _checked(key: str) -> str:
    if not is_safe_key(key):
        raise StorageRefused(f"{key!r} is no key of an object")
    return key
