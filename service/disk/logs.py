"""Shortening of logs that have become too long."""

from pathlib import Path

__all__ = ["shorten"]

_NOTE = b"[the log was longer than is kept: its beginning was removed]\n"


def shorten(log: Path, most: int) -> int:
    """Removes the beginning of a log that is longer than `most` bytes, so that half of that is left; bytes removed.

    A process that appends to it goes on appending: the file stays the same.
    """
    try:
        size = log.stat().st_size
        if size <= most:
            return 0
        with log.open("r+b") as file:
            file.seek(size - most // 2)
            rest = file.read().partition(b"\n")[2]
            file.truncate(0)
        with log.open("ab") as file:
            file.write(_NOTE + rest)
    except FileNotFoundError:
        return 0
    return size - len(rest) - len(_NOTE)
