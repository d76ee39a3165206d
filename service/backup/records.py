"""Records in an archive: what its first and last members say."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["CHECKSUMS", "FORMAT", "INFO", "BackupInfo", "Checksums"]

FORMAT = 1
"""Number of the archive's format; goes up when an older release could not restore it."""

INFO = "backup.json"
"""Name of the first member."""

CHECKSUMS = "checksums.json"
"""Name of the last member."""


class BackupInfo(BaseModel):
    """backup.json: what made an archive, of what."""

    model_config = ConfigDict(frozen=True)

    format: int = Field(ge=1)
    """Of the archive; see `FORMAT`."""
    release: str = Field(max_length=100)
    """Version of seqae that made it."""
    revision: str = Field(max_length=32)
    """Name of the newest migration that the tables of its job database have seen."""
    made_at: datetime
    """When it was begun: the state of the database is that of then."""
    home: str = Field(max_length=5000)
    """The home folder that it was made of; paths below it are moved by the restore."""
    data_dir: str | None = Field(None, max_length=5000)
    """The user's own data, which is not in the archive, as the stack was told."""


class Checksums(BaseModel):
    """checksums.json: SHA-256 of every other member, by name."""

    model_config = ConfigDict(frozen=True)

    sha256: dict[str, str]
