"""Fencing token of an attempt: which process runs the newest attempt of a job, decided by conditional writes."""

import secrets

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.directory.records import Control
from jobs.errors import FencedError, FolderError
from jobs.storage.job_objects import CLAIM, CONTROL
from jobs.storage.objects import ObjectStore, StoredObject

__all__ = ["AttemptClaim", "issue_stored_control", "read_stored_control"]

_MOST_TRIES = 20


class _Claim(BaseModel):
    """claim.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    attempt: int = Field(ge=0)
    token: str = Field(max_length=200)
    """Of the process: the same attempt may not run twice."""


class AttemptClaim:
    """A process's claim to be the newest attempt of a job.

    Args:
        store: the storage.
        prefix: of the job's objects.
        attempt: number of the attempt.
    """

    def __init__(self, store: ObjectStore, prefix: str, attempt: int) -> None:
        self._store = store
        self._prefix = prefix
        self._claim = _Claim(attempt=attempt, token=secrets.token_hex(16))

    def take(self) -> None:
        """Writes the claim down.

        Raises:
            FencedError: a newer attempt exists, or another process runs this one.
            FolderError: claim.json or control.json is damaged.
            StorageUnavailable, StorageRefused: it is not known whether the claim holds; repeating is safe.
        """
        key, content = f"{self._prefix}/{CLAIM}", self._claim.model_dump_json().encode()
        for _ in range(_MOST_TRIES):
            self._check_control()
            found = self._store.get(key)
            if found is None:
                if self._store.put_if_absent(key, content):
                    return
                continue
            known = _parse(found)
            if known == self._claim:
                return
            if known.attempt >= self._claim.attempt:
                raise FencedError(f"attempt {known.attempt} is run by another process")
            if self._store.put_if_match(key, content, found.etag):
                return
        raise FencedError("other processes keep claiming this job")

    def join(self) -> None:
        """Takes part in the claim of the attempt's driver. Raises: as `take`."""
        found = self._store.get(f"{self._prefix}/{CLAIM}")
        known = None if found is None else _parse(found)
        if known is None or known.attempt != self._claim.attempt:
            raise FencedError(f"attempt {self._claim.attempt} is not the newest any more")
        self._claim = known
        self._check_control()

    @property
    def token(self) -> str:
        """Of the process that runs the attempt."""
        return self._claim.token

    def check(self) -> None:
        """Makes sure that the claim still holds. Raises: as `take`."""
        self._check_control()
        found = self._store.get(f"{self._prefix}/{CLAIM}")
        if found is None or _parse(found) != self._claim:
            raise FencedError(f"attempt {self._claim.attempt} is not the newest any more")

    def _check_control(self) -> None:
        control = read_stored_control(self._store, self._prefix)
        if control is not None and control.fences(self._claim.attempt):
            raise FencedError(f"attempt {control.attempt} has taken over from attempt {self._claim.attempt}")


def read_stored_control(store: ObjectStore, prefix: str) -> Control | None:
    """control.json of a job, or None where there is none. Raises: FolderError where it is damaged."""
    found = store.get(f"{prefix}/{CONTROL}")
    return None if found is None else _parse_control(found, prefix)


def issue_stored_control(store: ObjectStore, prefix: str, control: Control) -> Control:
    """Writes control.json unless it names a newer attempt already; gives what it says then.

    Raises:
        StorageUnavailable, StorageRefused: whether it was written is not known; repeating is safe.
    """
    key, content = f"{prefix}/{CONTROL}", control.model_dump_json().encode()
    while True:
        found = store.get(key)
        if found is None:
            if store.put_if_absent(key, content):
                return control
            continue
        try:
            known = _parse_control(found, prefix)
        except FolderError:
            known = Control(attempt=0)
        if known.fences(control.attempt) or known == control:
            return known
        if store.put_if_match(key, content, found.etag):
            return control


def _parse(found: StoredObject) -> _Claim:
    try:
        return _Claim.model_validate_json(found.content)
    except ValidationError as error:
        raise FolderError(f"{CLAIM} of the job is damaged") from error


def _parse_control(found: StoredObject, prefix: str) -> Control:
    try:
        return Control.model_validate_json(found.content)
    except ValidationError as error:
        raise FolderError(f"{prefix}/{CONTROL} is damaged") from error
