"""Addresses of object storages (SEQAE_STORAGE): what they may be, and a check that one works."""

import hashlib
import secrets
from pathlib import Path
from urllib.parse import unquote, urlsplit

from jobs.errors import StorageRefused
from jobs.storage.bucket import BucketStore
from jobs.storage.folder import FolderStore
from jobs.storage.objects import ObjectStore

__all__ = ["STORAGE_VARIABLE", "check_location", "check_storage", "default_node_dir", "open_storage"]

STORAGE_VARIABLE = "SEQAE_STORAGE"

_BUCKETS = ("s3", "gs", "az")


def check_location(url: str) -> str:
    """An address of a storage, without a slash at its end.

    Args:
        url: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER; the prefix may be missing.

    Raises:
        ValueError: it is no such address. The text does not quote it: it may have a key in it.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/") and parts.path.strip("/"):
        return url.rstrip("/")
    if parts.scheme not in _BUCKETS or not parts.hostname:
        raise ValueError("must be s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("has more than a bucket and a prefix; credentials belong into the environment")
    return url.rstrip("/")


def open_storage(url: str) -> ObjectStore:
    """The storage at an address. Nothing is asked yet.

    Raises:
        StorageRefused: it is no such address.
    """
    try:
        checked = check_location(url)
    except ValueError as error:
        raise StorageRefused(f"{STORAGE_VARIABLE} {error}") from error
    if checked.startswith("file:"):
        return FolderStore(Path(unquote(urlsplit(checked).path)))
    return BucketStore(checked)


def check_storage(store: ObjectStore) -> None:
    """Writes, reads, lists and removes an object.

    Raises:
        StorageRefused: what is missing: credentials, the bucket, a permission, conditional writes.
        StorageUnavailable: no answer.
    """
    try:
        _try_out(store)
    except OSError as error:
        raise StorageRefused(f"the folder can't be used: {error.strerror}") from error


def _try_out(store: ObjectStore) -> None:
    key, content = f"checks/{secrets.token_hex(8)}", b"seqae"
    if not store.put_if_absent(key, content) or store.put_if_absent(key, b"other"):
        raise StorageRefused("conditional writes don't work: fencing needs them")
    found = store.get(key)
    if found is None or found.content != content or [info.key for info in store.list("checks")].count(key) != 1:
        raise StorageRefused("what was written is not there")
    store.delete([key])


def default_node_dir(url: str) -> Path:
    """Folder for copies on each machine of a cluster: another one for each storage, so that stacks don't mix."""
    return Path("/var/tmp") / f"seqae-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
