"""Placement files of an attempt: which rank runs in which process of the cluster."""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from jobs.directory.files import read_record, write_atomically
from jobs.directory.layout import AttemptFolder
from jobs.errors import FolderError

__all__ = ["Placement", "read_ranks", "write_placement"]

_MOST = 10_000
"""Placements of an attempt that are looked at."""


class Placement(BaseModel):
    """Content of `workers/<rank>.json`. A rank that is started again overwrites it."""

    model_config = ConfigDict(frozen=True)

    rank: int = Field(ge=0)
    process_id: str = Field(max_length=200)
    """The cluster's id of the process: Ray's actor id."""
    node_id: str = Field(max_length=200)
    """The cluster's id of the machine."""


def write_placement(attempt: AttemptFolder, placement: Placement) -> None:
    """Writes down where a rank runs. Raises: OSError."""
    write_atomically(_folder(attempt) / f"{placement.rank}.json", placement.model_dump_json())


def read_ranks(attempt: AttemptFolder) -> dict[str, int]:
    """Ranks of an attempt by process id; files that can't be read are left out, since nothing depends on them.

    Those of processes that have ended are in it, too: an elastic run had more workers before.
    """
    found: dict[str, int] = {}
    try:
        paths = [path for path in _folder(attempt).iterdir() if re.fullmatch(r"\d{1,9}\.json", path.name)]
    except OSError:
        return found
    for path in paths[:_MOST]:
        try:
            placement = read_record(path, Placement)
        except FolderError:
            continue
        if placement is not None:
            found[placement.process_id] = placement.rank
    return found


def _folder(attempt: AttemptFolder) -> Path:
    return attempt.path / "workers"
