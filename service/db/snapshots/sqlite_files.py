"""Copies of SQLite files while others write to them, and the rewriting of paths in them."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from service.errors import BackupError

__all__ = ["copy_sqlite", "move_paths", "reason_of"]

_WAIT_SECONDS = 60.0
"""Longest wait for a writer of the file."""


def copy_sqlite(source: Path, target: Path) -> None:
    """Copies an SQLite database as it is at one moment, by SQLite's own online backup; writers go on.

    Args:
        source: the database; it must exist.
        target: a new file. It stands alone: no write-ahead log belongs to it.

    Raises:
        BackupError: it can't be read, or is damaged.
    """
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_SECONDS)) as old,
            closing(sqlite3.connect(target)) as new,
        ):
            # All pages in one step: in several, each write in between would make it begin again.
            old.backup(new, pages=-1)
            new.execute("PRAGMA journal_mode=DELETE").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"{source} can't be copied: {reason_of(error)}") from error


def move_paths(database: Path, columns: Iterable[tuple[str, str]], old: str, new: str) -> None:
    """Lets the paths in some columns that lie below one folder lie below another one.

    Args:
        database: an SQLite file that nobody else uses.
        columns: table and column of each; those that the file does not have are left out.
        old: the folder that the paths begin with, alone or as a `file://` URL.
        new: the folder that takes its place.

    Raises:
        BackupError: it can't be written, or is damaged.
    """
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            for table, column in columns:
                known = {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}
                for prefix in ("", "file://") if column in known else ():
                    before, after = prefix + old, prefix + new
                    connection.execute(
                        f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '
                        f'WHERE "{column}" = ? OR substr("{column}", 1, ?) = ?',
                        (after, len(before) + 1, before, len(before) + 1, before + "/"),
                    )
    except sqlite3.Error as error:
        raise BackupError(f"{database.name} can't be taken over: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """What went wrong, in a line, without the statement or its values."""
    return str(error).partition("\n")[0][:200]
