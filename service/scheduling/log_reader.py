"""Bounded reads of log files: never more than a piece at once, however large they are."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["MOST_BYTES", "LogEnd", "after", "last_lines", "tail"]

MOST_BYTES = 1_000_000
"""Longest piece of a log that is read at once."""


@dataclass(frozen=True)
class LogEnd:
    """The last lines of a log."""

    content: bytes
    attempt: int
    """Whose log it is; 0 before the first attempt."""
    end: int
    """Byte of the attempt's own log from which to go on."""


def last_lines(content: bytes, lines: int | None = None) -> bytes:
    """The last lines, as many as asked for and as fit into `MOST_BYTES`; what is cut off ends with a whole line."""
    kept = content[-MOST_BYTES:]
    if len(kept) < len(content):
        # One line longer than that is given in part.
        kept = kept.partition(b"\n")[2] or kept
    return kept if lines is None else b"".join(kept.splitlines(keepends=True)[-lines:])


def tail(path: Path, lines: int | None = None) -> tuple[bytes, int]:
    """The last lines of a file, and its size in bytes. Raises: FileNotFoundError."""
    with path.open("rb") as file:
        start = max(0, file.seek(0, 2) - MOST_BYTES - 1)
        file.seek(start)
        content = file.read(MOST_BYTES + 1)
        return last_lines(content, lines), start + len(content)


def after(path: Path, start: int) -> bytes:
    """The piece of a file from byte `start` on; empty at its end, or when there is no such file yet."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(MOST_BYTES)
    except FileNotFoundError:
        return b""
