"""Sweep of what grows: caches of data and models, film strips and logs, each kept within its quota."""

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from jobs.directory.layout import JobFolder
from jobs.errors import FolderError
from service.db.store import Store
from service.disk import film_strips, logs
from service.disk.data_caches import DataCache, belongs_to, data_caches, remove_cache
from service.disk.removal import keys_in_use
from service.disk.sizes import size_of
from service.settings import ReconcilerSettings

__all__ = ["DiskSweep", "Removed"]

log = logging.getLogger(__name__)

_JUST_USED = timedelta(hours=1)
"""Whatever was used since is left alone: a process may be about to open it."""

_MODELS_KEPT = 4
"""Downloaded models that stay whatever their size: those that are served, and those before."""


@dataclass(frozen=True)
class Removed:
    """Something that was removed, or made shorter."""

    kind: str
    path: Path
    bytes: int
    age: float | None
    """Seconds since it was last used or changed; None for a part of something that goes on."""


class DiskSweep:
    """Keeps what grows within its quotas, and logs each thing that it removes.

    Args:
        store: the job database.
        jobs_dir: folder with a folder for each job.
        cache_dir: built data sets, and models that drivers downloaded.
        settings: the quotas.
    """

    def __init__(self, store: Store, jobs_dir: Path, cache_dir: Path, settings: ReconcilerSettings) -> None:
        self._store = store
        self._jobs_dir = jobs_dir
        self._cache_dir = cache_dir
        self._settings = settings

    def data(self) -> list[Removed]:
        """Removes data caches that nobody has used for long, and the longest unused ones of those over the quota."""
        now, settings = self._store.now(), self._settings
        used = keys_in_use(self._store)
        caches = sorted(data_caches(self._cache_dir), key=lambda cache: cache.used_at)
        total = sum(cache.size.bytes for cache in caches)
        removed = []
        for cache in caches:
            age = _age(cache.used_at, now)
            too_old = age > timedelta(days=settings.data_cache_days)
            if belongs_to(cache, used) or age < _JUST_USED or not (too_old or total > settings.data_cache_bytes):
                continue
            if remove_cache(cache):
                total -= cache.size.bytes
                removed.append(_removed("data cache", cache, age))
        return _logged(removed)

    def models(self) -> list[Removed]:
        """Removes the longest unused of the downloaded models over the quota; MLflow still has them."""
        removed = []
        for folder in (self._cache_dir / "models", self._jobs_dir.parent / "models"):
            found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
            newest_first = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
            total = 0
            for number, path in enumerate(newest_first):
                size, age = size_of(path), _age(path.stat().st_mtime, self._store.now())
                total += size.bytes
                if number >= _MODELS_KEPT and total > self._settings.model_cache_bytes and age >= _JUST_USED:
                    shutil.rmtree(path, ignore_errors=True)
                    total -= size.bytes
                    removed.append(Removed("downloaded model", path, size.bytes, age.total_seconds()))
        return _logged(removed)

    def film_strips(self) -> list[Removed]:
        """Thins out the film strips of each run that has made too many."""

        def thin(run: JobFolder) -> Iterator[Removed]:
            gone = film_strips.thin(run, self._settings.max_film_strips)
            if gone.files:
                yield Removed(f"{gone.files} film strips", run.path, gone.bytes, None)

        return _logged(self._in_each_run(thin))

    def logs(self) -> list[Removed]:
        """Removes the beginning of logs that are too long."""

        def shorten(run: JobFolder) -> Iterator[Removed]:
            for attempt in run.attempts():
                if gone := logs.shorten(attempt.log, self._settings.max_log_bytes):
                    yield Removed("beginning of a log", attempt.log, gone, None)

        return _logged(self._in_each_run(shorten))

    def _in_each_run(self, act: Callable[[JobFolder], Iterator[Removed]]) -> list[Removed]:
        """What is done in the folder of each job and trial; one that can't be read concerns itself alone."""
        removed: list[Removed] = []
        paths = sorted(self._jobs_dir.iterdir()) if self._jobs_dir.is_dir() else []
        for path in paths:
            if path.name.startswith(".") or not path.is_dir():
                continue
            try:
                for run in film_strips.runs_of(JobFolder(path)):
                    removed += act(run)
            except (OSError, FolderError) as error:
                log.warning("%s is left as it is: %s", path, error)
        return removed


def _age(used_at: float, now: datetime) -> timedelta:
    return timedelta(seconds=max(0.0, now.timestamp() - used_at))


def _removed(kind: str, cache: DataCache, age: timedelta) -> Removed:
    return Removed(kind, cache.path, cache.size.bytes, age.total_seconds())


def _logged(removed: list[Removed]) -> list[Removed]:
    for one in removed:
        age = "" if one.age is None else f", unused for {one.age / 86_400:.1f} days"
        log.info("removed %s %s: %d bytes%s", one.kind, one.path, one.bytes, age)
    return removed
