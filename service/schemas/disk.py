"""Wire models of the use of the disk."""

from datetime import datetime

from service.schemas.base import Schema

__all__ = ["DiskPart", "DiskView", "JobDisk", "OwnerDisk"]


class DiskPart(Schema):
    """Everything of one kind below the stack's home."""

    kind: str
    """jobs, data caches, downloaded models, database, deleted jobs, or a folder's own name."""
    bytes: int
    files: int
    quota_bytes: int | None = None
    """Over it the longest unused is removed; None: it has no quota of its own."""
    newest: datetime | None = None
    """The newest change; None where there is no file."""


class JobDisk(Schema):
    """What a job's folder takes."""

    id: str
    name: str
    owner: str
    state: str
    """Empty: there is no such job in this database."""
    bytes: int
    checkpoint_bytes: int
    film_strip_bytes: int
    log_bytes: int


class OwnerDisk(Schema):
    """What the jobs of one owner take."""

    owner: str
    jobs: int
    bytes: int


class DiskView(Schema):
    """The use of the disk. Sizes are in bytes, as the file system counts them."""

    home: str
    """Folder of everything the stack keeps."""
    total_bytes: int
    """Size of the disk that the home is on."""
    free_bytes: int
    """What is left of it."""
    parts: tuple[DiskPart, ...]
    """Largest first."""
    owners: tuple[OwnerDisk, ...]
    """Largest first."""
    jobs: tuple[JobDisk, ...]
    """The largest, at most a hundred."""
    measured_at: datetime
