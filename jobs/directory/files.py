"""Atomic and append-only files of records, which several processes share.

A file is replaced in one step or appended to in whole lines; lines that a crash has torn are not read.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from jobs.errors import FolderError

__all__ = ["append_record", "describe_invalid", "read_record", "read_records", "write_atomically"]

RecordT = TypeVar("RecordT", bound=BaseModel)

_LARGEST_RECORD = 64_000_000
"""Bytes of a file that is read whole; a larger one is not ours."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file in one step: a crash leaves the old file or the new one.

    Args:
        path: of the file; its folder is made where it is missing.
        content: of the whole file.

    Raises:
        OSError: the disk is full or the folder can't be written; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_record(path: Path, model: type[RecordT]) -> RecordT | None:
    """Reads a file that holds one record.

    Args:
        path: of the file.
        model: of the record.

    Returns:
        The record, or None where there is no file.

    Raises:
        FolderError: the file can't be read or is not such a record. The text names it and quotes nothing of it.
    """
    try:
        if not path.is_file() and path.exists():
            raise FolderError(f"{path}: not a file")
        if path.stat().st_size > _LARGEST_RECORD:
            raise FolderError(f"{path}: too large")
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FolderError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise FolderError(f"{path}: {describe_invalid(error)}") from error


def describe_invalid(error: ValidationError) -> str:
    """What is wrong first, and where, without quoting what was read."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = "/".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def append_record(path: Path, row: BaseModel, *, durable: bool = False) -> None:
    """Appends a record to a file as one line of JSON, on a line of its own even after a torn one.

    Args:
        path: of the file; it is made where it is missing.
        row: the record.
        durable: it is on the disk when this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = row.model_dump_json(by_alias=True).encode() + b"\n"
    # One write call to a file opened for appending: lines of two writers don't mix.
    with path.open("ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                # A killed writer tore the last line; without this its rest would swallow ours.
                line = b"\n" + line
        file.write(line)
        if durable:
            os.fsync(file.fileno())


def read_records(path: Path, model: type[RecordT]) -> Iterator[RecordT]:
    """Reads the records of a file, one a line; a line torn by a crash is left out.

    Args:
        path: of the file; none is like an empty one.
        model: of the records.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                yield model.model_validate_json(line)
            except ValidationError:
                # Only a killed writer or a full disk tears a line; what it said was never committed.
                continue
