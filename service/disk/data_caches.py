"""Caches of built data sets: which jobs they belong to, and the removal of those that nobody needs."""

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from jobs.specs import AnySpec, EvaluateSpec, FigureSpec, TuneSpec, VerifySpec
from seqae.config import image_settings
from service.disk.sizes import Size, size_of

__all__ = ["CacheKey", "DataCache", "belongs_to", "data_caches", "key_of", "remove_cache"]

_MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 64_000_000


@dataclass(frozen=True)
class CacheKey:
    """What a cache was built from, as far as a spec says it. None: whatever it is."""

    data: str
    """Its data config, as canonical JSON."""
    image: tuple[int, int, int] | None
    """Height, width and channels."""


@dataclass(frozen=True)
class DataCache:
    """A folder with a built data set, or with what a killed process left of one."""

    path: Path
    size: Size
    used_at: float
    """When it was built or last opened, seconds since 1970."""
    key: CacheKey | None
    """None: it can't be told, since another release built it or it was never finished."""


def data_caches(cache_dir: Path) -> Iterator[DataCache]:
    """The caches in a folder of caches, in any order; other folders in it are left out."""
    if not cache_dir.is_dir():
        return
    for path in cache_dir.iterdir():
        is_draft = ".building-" in path.name or path.name.startswith(".removed-")
        manifest = path / _MANIFEST
        if not path.is_dir() or path.is_symlink() or not (is_draft or manifest.is_file()):
            continue
        size = size_of(path)
        used = size.newest
        with suppress(OSError):
            used = manifest.stat().st_mtime
        yield DataCache(path, size, used, _read_key(manifest))


def key_of(spec: AnySpec) -> CacheKey | None:
    """The cache that a job uses; None: that depends on the model that it is about."""
    if isinstance(spec, FigureSpec | EvaluateSpec):
        return None if spec.data is None else CacheKey(_canonical(image_settings(spec.data)), None)
    if isinstance(spec, VerifySpec):
        return None
    train = spec.base if isinstance(spec, TuneSpec) else spec
    model = train.model
    return CacheKey(_canonical(image_settings(train.data)), (model.height, model.width, model.channels))


def belongs_to(cache: DataCache, keys: Collection[CacheKey]) -> bool:
    """Whether one of the jobs with these keys uses a cache."""
    return cache.key is not None and (cache.key in keys or CacheKey(cache.key.data, None) in keys)


def remove_cache(cache: DataCache) -> bool:
    """Removes a cache, unless a process is building it now; whether it is gone."""
    lock = FileLock(cache.path.with_name(f"{cache.path.name.partition('.building-')[0]}.lock"))
    try:
        with lock.acquire(timeout=0):
            # Renamed first: nobody opens half of it.
            gone = cache.path.with_name(f".removed-{cache.path.name}")
            shutil.rmtree(gone, ignore_errors=True)
            cache.path.rename(gone)
    except (OSError, Timeout):
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _read_key(manifest: Path) -> CacheKey | None:
    try:
        if manifest.stat().st_size > _LARGEST_MANIFEST:
            return None
        settings = json.loads(manifest.read_bytes())["settings"]
        image = (int(settings["height"]), int(settings["width"]), int(settings["channels"]))
        return CacheKey(_canonical(settings["data"]), image)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
