"""Use of the disk by kind, owner and job, measured at most once a minute."""

import shutil
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.directory.layout import JobFolder
from service.clock import is_over
from service.db.models import JobRow
from service.db.store import Store
from service.disk.film_strips import runs_of
from service.disk.removal import TRASH
from service.disk.sizes import Size, size_of
from service.schemas.disk import DiskPart, DiskView, JobDisk, OwnerDisk
from service.settings import ReconcilerSettings

__all__ = ["DiskUsage"]

_HOLDS = timedelta(seconds=60)
_MOST_JOBS = 100


class DiskUsage:
    """Measures what the stack keeps below its home.

    Args:
        store: the job database.
        jobs_dir: folder with a folder for each job; its parent is the home.
        cache_dir: built data sets.
        settings: the quotas.
    """

    def __init__(self, store: Store, jobs_dir: Path, cache_dir: Path, settings: ReconcilerSettings) -> None:
        self._store = store
        self._jobs_dir = jobs_dir
        self._cache_dir = cache_dir
        self._settings = settings
        self._lock = threading.Lock()
        self._view: DiskView | None = None

    def view(self) -> DiskView:
        """The use of the disk, at most a minute old. Raises: StoreUnavailableError."""
        # One measures, and those who came meanwhile get its answer.
        with self._lock:
            now = self._store.now()
            if self._view is None or is_over(self._view.measured_at + _HOLDS, now, _HOLDS):
                self._view = self._measure(now)
            return self._view

    def _measure(self, now: datetime) -> DiskView:
        home = self._jobs_dir.parent
        disk = shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists()))
        jobs = sorted(self._jobs(), key=lambda job: job.bytes, reverse=True)
        return DiskView(
            home=str(home),
            total_bytes=disk.total,
            free_bytes=disk.free,
            parts=tuple(sorted(self._parts(home), key=lambda part: part.bytes, reverse=True)),
            owners=_by_owner(jobs),
            jobs=tuple(jobs[:_MOST_JOBS]),
            measured_at=now,
        )

    def _parts(self, home: Path) -> list[DiskPart]:
        settings = self._settings
        models = (self._cache_dir / "models", home / "models")
        trash = size_of(self._jobs_dir / TRASH)
        sizes = {
            "jobs": _without(size_of(self._jobs_dir), trash),
            "deleted jobs": trash,
            "downloaded models": sum(map(size_of, models), Size()),
            "data caches": _without(size_of(self._cache_dir), size_of(models[0])),
        }
        known = {self._jobs_dir, self._cache_dir, home / "models"}
        others = [path for path in home.iterdir() if path not in known] if home.is_dir() else []
        sizes |= {path.name: size_of(path) for path in others}
        quotas = {"downloaded models": settings.model_cache_bytes, "data caches": settings.data_cache_bytes}
        return [
            DiskPart(
                kind=kind,
                bytes=size.bytes,
                files=size.files,
                quota_bytes=quotas.get(kind),
                newest=datetime.fromtimestamp(size.newest, UTC) if size.newest else None,
            )
            for kind, size in sizes.items()
            if size.files
        ]

    def _jobs(self) -> list[JobDisk]:
        paths = [path for path in self._jobs_dir.iterdir() if path.is_dir()] if self._jobs_dir.is_dir() else []
        rows = {row.id: row for row in self._store.specs()}
        return [_job_disk(path, rows.get(path.name)) for path in paths if not path.name.startswith(".")]


def _job_disk(path: Path, row: JobRow | None) -> JobDisk:
    attempts = [attempt for run in runs_of(JobFolder(path)) for attempt in run.attempts()]
    return JobDisk(
        id=path.name,
        name="" if row is None else row.name,
        owner="" if row is None else row.owner,
        state="" if row is None else row.state.value,
        bytes=size_of(path).bytes,
        checkpoint_bytes=sum(size_of(attempt.checkpoints).bytes for attempt in attempts),
        film_strip_bytes=sum(size_of(attempt.frames).bytes for attempt in attempts),
        log_bytes=sum(size_of(attempt.log).bytes for attempt in attempts),
    )


def _by_owner(jobs: list[JobDisk]) -> tuple[OwnerDisk, ...]:
    sizes: Counter[str] = Counter()
    for job in jobs:
        sizes[job.owner] += job.bytes
    numbers = Counter(job.owner for job in jobs)
    return tuple(OwnerDisk(owner=owner, jobs=numbers[owner], bytes=size) for owner, size in sizes.most_common())


def _without(whole: Size, part: Size) -> Size:
    return Size(whole.bytes - part.bytes, whole.files - part.files, whole.newest)
