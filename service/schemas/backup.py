"""Models of what `python -m service.backup` is asked and answers, a line of JSON each."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path

from service.schemas.base import Schema

__all__ = ["BackupOperation", "BackupProgress", "BackupRequest", "BackupSummary"]


class BackupOperation(StrEnum):
    """What the program does."""

    BACKUP = "backup"
    RESTORE = "restore"


class BackupRequest(Schema):
    """What `python -m service.backup` is asked, as JSON on standard input."""

    operation: BackupOperation
    archive: Path
    home: Path
    by: str = ""
    """Who asks, for the audit log."""
    data_dir: Path | None = None
    """Of a backup: the user's own data, as the stack was told."""


class BackupProgress(Schema):
    """How far it is; a line of standard output."""

    files: int
    """So many are done."""
    bytes: int
    """So many bytes of them."""
    total: int
    """Bytes that there are about in all."""


class BackupSummary(Schema):
    """What was done; the last line of standard output."""

    archive: str
    home: str
    files: int
    bytes: int
    """Of the archive's members."""
    jobs: int
    """How many the database has."""
    made_at: datetime
    """The time whose state it is."""
    left_out: tuple[str, ...]
    """Names in the home that a backup does not take, or files that went or could not be read, at most a hundred."""
    data_dir: str | None = None
    """The user's own data, which is not in the archive."""
