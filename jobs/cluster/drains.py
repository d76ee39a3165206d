"""Files of machines that are leaving the cluster, in the folder that all share: Ray's dashboard tells of no drain."""

import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from jobs.directory.files import read_record, write_atomically
from jobs.errors import FolderError

__all__ = ["Drain", "end_drain", "read_drains", "write_drain"]

_MOST = 1_000
"""Files that are looked at."""


class Drain(BaseModel):
    """Content of `nodes/<key>.json`: a machine that was asked to leave, until it has left."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(max_length=300)
    """Of the machine, as the cluster knows it."""
    address: str = Field(max_length=300)
    until: float
    """When what runs on it is ended, in seconds since 1970. A file that is older is one that was left behind."""


def write_drain(home: Path, key: str, drain: Drain) -> None:
    """Writes down that a machine leaves. Raises: OSError."""
    write_atomically(_path(home, key), drain.model_dump_json())


def end_drain(home: Path, key: str) -> None:
    """Removes what was written down, once the machine has left. Raises: OSError."""
    _path(home, key).unlink(missing_ok=True)


def read_drains(home: Path) -> frozenset[tuple[str, str]]:
    """Name and address of each machine that leaves now; files that can't be read are left out."""
    return frozenset((drain.name, drain.address) for drain in _drains(home) if drain.until > time.time())


def _drains(home: Path) -> Iterator[Drain]:
    try:
        paths = sorted((home / "nodes").glob("*.json"))[:_MOST]
    except OSError:
        return
    for path in paths:
        try:
            found = read_record(path, Drain)
        except FolderError:
            continue
        if found is not None:
            yield found


def _path(home: Path, key: str) -> Path:
    return home / "nodes" / f"{key}.json"
