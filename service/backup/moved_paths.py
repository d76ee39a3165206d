"""Absolute paths below the old home, moved to the new one, in everything of a backup that holds some.

These are specs that name a checkpoint or data below the home, in the job database and in the jobs' folders, and
addresses of files in MLflow's database where its server was started with a path for them.
"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from jobs.directory.files import write_atomically
from service.db.snapshots.sqlite_files import move_paths, reason_of
from service.errors import BackupError

__all__ = ["move_to"]

_MLFLOW_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)

_LARGEST_SPEC = 10_000_000
_DEEPEST = 50


def move_to(root: Path, old: str, new: str) -> None:
    """Moves the paths in the files of a restored home.

    Args:
        root: where the files are now.
        old: the home that the backup was made of.
        new: where the home is going to be.

    Raises:
        BackupError: a database is damaged.
        OSError: a file can't be written.
    """
    if old == new:
        return
    if (mlflow := root / "mlflow" / "mlflow.db").is_file():
        move_paths(mlflow, _MLFLOW_COLUMNS, old, new)
    _move_specs(root / "control" / "jobs.db", old, new)
    for spec in sorted((root / "jobs").rglob("spec.json")):
        _move_file(spec, old, new)


def _move_specs(database: Path, old: str, new: str) -> None:
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            for number, spec in connection.execute("SELECT number, spec FROM jobs").fetchall():
                if isinstance(spec, str) and (moved := _moved_text(spec, old, new)) is not None:
                    connection.execute("UPDATE jobs SET spec = ? WHERE number = ?", (moved, number))
    except sqlite3.Error as error:
        raise BackupError(f"{database.name} can't be taken over: {reason_of(error)}") from error


def _move_file(path: Path, old: str, new: str) -> None:
    if path.stat().st_size > _LARGEST_SPEC:
        return
    moved = _moved_text(path.read_text(errors="replace"), old, new, indent=2)
    if moved is not None:
        write_atomically(path, moved)


def _moved_text(content: str, old: str, new: str, indent: int | None = None) -> str | None:
    """A JSON text with its paths moved; None where there is nothing to move, or it is no JSON."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None  # damaged; it concerns its own job, which says so
    moved = _moved(value, old, new)
    return None if moved == value else json.dumps(moved, indent=indent)


def _moved(value: Any, old: str, new: str, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        return value
    if isinstance(value, str):
        return new + value[len(old) :] if value == old or value.startswith(f"{old}/") else value
    if isinstance(value, dict):
        return {key: _moved(item, old, new, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, old, new, depth + 1) for item in value]
    return value
