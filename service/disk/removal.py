"""Removal of a job: its row, its files, and the cache of data that only it used."""

import logging
import shutil
from pathlib import Path

from jobs.directory.stored_specs import parse_spec
from jobs.errors import SpecUnreadable
from jobs.storage.job_files import JobFiles
from service.db.models import JobRow
from service.db.store import Store
from service.disk.data_caches import CacheKey, belongs_to, data_caches, key_of, remove_cache

__all__ = ["TRASH", "keys_in_use", "remove_job"]

log = logging.getLogger(__name__)

TRASH = ".deleted"
"""Folder among the jobs' own with those whose files are being removed."""


def remove_job(store: Store, files: JobFiles, jobs_dir: Path, cache_dir: Path, job: JobRow) -> None:
    """Removes an ended job. Its events and its registered model stay.

    Args:
        store: the job database.
        files: where drivers' files of jobs are.
        jobs_dir: folder with a folder for each job.
        cache_dir: built data sets.
        job: its row; it has ended, and nothing of it is left on the cluster.

    Raises:
        StaleRowError: somebody else changed the row meanwhile.
        StorageUnavailable, StorageRefused: the storage did not answer; the row is still there.
    """
    files.remove(job.id)
    # First out of the way, then the row, then the files: a crash in between leaves what the sweep removes.
    trash, folder = jobs_dir / TRASH / job.id, jobs_dir / job.id
    if folder.exists():
        trash.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(trash)
    store.delete(job)
    shutil.rmtree(trash, ignore_errors=True)
    _remove_own_caches(store, cache_dir, job)


def keys_in_use(store: Store) -> set[CacheKey]:
    """What the jobs use that have not ended."""
    return {key for row in store.specs(live_only=True) if (key := _key(row)) is not None}


def _remove_own_caches(store: Store, cache_dir: Path, job: JobRow) -> None:
    own = _key(job)
    if own is None or own.image is None:
        return  # a figure shows what another job used
    mine = [cache for cache in data_caches(cache_dir) if belongs_to(cache, {own})]
    if not mine:
        return
    for cache in mine:
        # Most caches have another user among the newest jobs, which ends the search.
        others = (key for row in store.specs() if (key := _key(row)) is not None)
        if not any(belongs_to(cache, {key}) for key in others) and remove_cache(cache):
            log.info("removed data cache %s, which only job %s used: %d bytes", cache.path, job.id, cache.size.bytes)


def _key(row: JobRow) -> CacheKey | None:
    try:
        return key_of(parse_spec(row.spec, row.spec_version))
    except SpecUnreadable:
        return None
