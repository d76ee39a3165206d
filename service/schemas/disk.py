"""Wire models of the use of the disk."""

from datetime import datetime

from service.schemas.base import Schema

__all__ = ["DiskPart", "DiskView", "JobDisk", "OwnerDisk"]


class DiskPart(Schema):
    """Everything of one kind below the stack's home."""

    kind: str
    """jobs, data caches, downloaded models, database, deleted jobs, or a folder's own name."""
    bytes: int
    """What its files take."""
    files: int
    """How many there are."""
    quota_bytes: int | None = None
    """Over it the longest unused is removed; None: it has no quota of its own."""
    newest: datetime | None = None
    """The newest change; None where there is no file."""


class JobDisk(Schema):
    """What a job's folder takes."""

    id: str
    """The job's id, which is its folder's name."""
    name: str
    """What people call the job; empty: there is no such job in this database."""
    owner: str
    """Who the job belongs to."""
    state: str
    """Empty: there is no such job in this database."""
    bytes: int
    """All that is in its folder."""
    checkpoint_bytes: int
    """Of that its checkpoints, over all attempts and trials."""
    film_strip_bytes: int
    """Of that its film strips."""
    log_bytes: int
    """Of that what its drivers have printed."""


class OwnerDisk(Schema):
    """What the jobs of one owner take."""

    owner: str
    """Who the jobs belong to; empty: nobody was named."""
    jobs: int
    """How many of them have a folder."""
    bytes: int
    """What these folders take."""


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
    """When this was seen; it is measured once a minute at most."""
