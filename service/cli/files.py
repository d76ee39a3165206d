"""Reads and writes the files that a command line names: bounded, never hanging, with errors of one line."""

import os
import select
import stat
import sys
from pathlib import Path

from seqae.errors import Error

__all__ = ["STANDARD_INPUT", "read_file", "write_file"]

STANDARD_INPUT = "-"
"""Path that stands for standard input."""

_SILENT_SECONDS = 5.0
"""Longest wait for a pipe that says nothing."""


def read_file(path: Path, limit: int) -> bytes:
    """Content of a file, or of standard input for `-`. Pipes are read too, but not waited for without end.

    Args:
        path: of the file.
        limit: bytes that it may have.

    Raises:
        Error: it can't be read, is a folder, is larger, or is a pipe into which nobody writes.
    """
    if str(path) == STANDARD_INPUT:
        if sys.stdin is None:
            raise Error("standard input is closed")
        content = sys.stdin.buffer.read(limit + 1)
    else:
        content = _read(path, limit)
    if len(content) > limit:
        raise Error(f"{path} is larger than {limit:,} bytes")
    return content


def write_file(path: Path, content: bytes) -> None:
    """Writes a file, and makes the folders above it.

    Raises:
        Error: that can't be done.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except (OSError, ValueError) as error:
        raise Error(f"can't write {path}: {_reason(error)}") from error


def _read(path: Path, limit: int) -> bytes:
    try:
        # Without O_NONBLOCK opening a pipe waits for somebody who writes.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise Error(f"can't read {path}: {_reason(error)}") from error
    try:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise Error(f"can't read {path}: it is a folder")
        return _read_to_end(path, handle, limit)
    except OSError as error:
        raise Error(f"can't read {path}: {_reason(error)}") from error
    finally:
        os.close(handle)


def _read_to_end(path: Path, handle: int, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while size <= limit:
        ready, _, _ = select.select([handle], [], [], _SILENT_SECONDS)
        if not ready:
            raise Error(f"can't read {path}: nothing came from it in {_SILENT_SECONDS:g} s")
        piece = os.read(handle, limit + 1 - size)
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _reason(error: Exception) -> str:
    """What is wrong in words, without the path, which the message has already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
