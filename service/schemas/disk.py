"""Wire models of the use of the disk."""

from datetime import datetime

from service.schemas.base import Schema

__all__ = ["DiskPart", "DiskView", "JobDisk", "OwnerDisk"]


class DiskPart(Schema):
    """Everything of one kind below the stack's home."""

    kind: str
    """jobs, data caches, downloaded models, database, deleted jobs, or a folder's own name."""
    bytes: int
    """What they take, in bytes."""
    files: int
    """How many they are."""
    quota_bytes: int | None = None
    """Over it the longest unused is removed; None: it has no quota of its own."""
    newest: datetime | None = None
    """The newest change; None where there is no file."""


class JobDisk(Schema):
    """What a job's folder takes."""

    id: str
    """Of the job."""
    name: str
    """What people call it."""
    owner: str
    """Who submitted it; empty if nobody was named."""
    state: str
    """Empty: there is no such job in this database."""
    bytes: int
    """Size of its folder, in bytes."""
    checkpoint_bytes: int
    """Of that its checkpoints, in bytes."""
    film_strip_bytes: int
    """Of that its film strips, in bytes."""
    log_bytes: int
    """Of that its logs, in bytes."""


class OwnerDisk(Schema):
    """What the jobs of one owner take."""

    owner: str
    """Who submitted the jobs; empty for those of nobody."""
    jobs: int
    """How many they are."""
    bytes: int
    """Size of all their folders, in bytes."""


class DiskView(Schema):
    """The use of the disk. Sizes are in bytes, as the file system counts them."""

    home: str
    """Folder of everything the stack keeps."""
    total_bytes: int
    """Size of the disk that the home is on, in bytes."""
    free_bytes: int
    """What is left of it, in bytes."""
    parts: tuple[DiskPart, ...]
    """By kind, largest first."""
    owners: tuple[OwnerDisk, ...]
    """By owner, largest first."""
    jobs: tuple[JobDisk, ...]
    """The largest, at most a hundred."""
    measured_at: datetime
    """When (UTC)."""
