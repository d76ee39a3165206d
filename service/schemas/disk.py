"""Wire models of the use of the disk."""

from datetime import datetime

from service.schemas.base import Schema

__all__ = [
    "DiskPart",
    "DiskView",
    "JobDisk",
    "OwnerDisk",
    "RetentionLimits",
    "RetentionRemoval",
    "RetentionReport",
    "RetentionView",
]


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


class RetentionLimits(Schema):
    """Limits on ended jobs, as they are set; 0 stands for none."""

    days: float
    """Since a job's end."""
    jobs: int
    """How many are kept."""
    jobs_per_owner: int
    """How many of one owner are kept."""
    bytes: int
    """What their folders take."""
    bytes_per_owner: int
    """What the folders of one owner's take."""


class RetentionRemoval(Schema):
    """Something of an ended job that is removed."""

    job: str
    """The job's id."""
    owner: str
    """Who the job belongs to."""
    removed: str
    """job: all of it, but its events and its registered model; checkpoints: those beside the best one."""
    bytes: int
    """Room that this gives back; 0 where no limit asks for sizes."""
    why: str
    """The limit that it is over."""


class RetentionReport(Schema):
    """What was removed at once."""

    at: datetime
    """When that was."""
    jobs: int
    """How many jobs were removed."""
    bytes: int
    """Room that was given back; 0 where no limit asks for sizes."""
    removals: tuple[RetentionRemoval, ...]
    """In their order, at most two hundred."""


class RetentionView(Schema):
    """What the limits on ended jobs would remove now, and what they have removed."""

    limits: RetentionLimits
    """As they are set."""
    removals: tuple[RetentionRemoval, ...]
    """What would be removed now, or, as the answer to the request to do so, what was."""
    jobs: int
    """How many jobs that are."""
    bytes: int
    """Room that it would give back; 0 where no limit asks for sizes."""
    reports: tuple[RetentionReport, ...]
    """What was removed before, newest first, at most twenty."""
