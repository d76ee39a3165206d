"""Cache of data sets: made or decoded once into a folder, checked, and memory-mapped from there ever after."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import joblib
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from seqae.config import (
    DataConfig,
    ImagesConfig,
    MnistScenesConfig,
    ModelConfig,
    SpritesConfig,
    TetrominoesConfig,
    image_settings,
)
from seqae.data import image_folder as images
from seqae.data.digits import load_digits
from seqae.data.generated.sprites import make_sprites
from seqae.data.generated.tetrominoes import make_tetrominoes
from seqae.data.mnist_scenes import make_scenes, scene_count
from seqae.data.paths import AllowedRoots
from seqae.data.scenes import Scenes
from seqae.data.splits import SPLITS, Split
from seqae.errors import DataError

__all__ = ["Dataset", "Report", "Scenes", "SharedDataSets", "load_data"]

FORMAT_VERSION = 3
"""Goes up whenever the same settings would give other bytes, so that an older cache is left alone. 2: `val`; 3: amodal
masks of scenes."""

_MANIFEST = "manifest.json"
_CHUNK = 500  # scenes that a process makes at a time
_log = logging.getLogger(__name__)

Report = Callable[[str, int, int], None]
Built = tuple[dict[Split, Scenes], str, dict[str, str]]  # the scenes; their source in words; files skipped, and why


class SharedDataSets(Protocol):
    """Data sets that other machines have built. Neither method raises: what can't be had is built here."""

    def fetch(self, folder: Path) -> None:
        """Fills the folder of a data set, which is looked for by its name, if there is one."""

    def store(self, folder: Path) -> None:
        """Gives the others a data set that was built here."""


@dataclass(frozen=True)
class Dataset:
    """Images of the three splits; no image, and no digit of a scene, is in two of them."""

    train: Scenes
    """What the model learns from."""

    val: Scenes
    """What checkpoints, trials and thresholds are chosen on."""

    test: Scenes
    """What the chosen model is evaluated on, once."""

    source: str
    """In words: which digits or which folder were used, and how many files were skipped."""

    checksum: str
    """SHA-256 of all content: equal for equal data, on every machine."""

    test_checksum: str
    """SHA-256 of the content of `test` alone. Scores compare where it is equal, whatever the models were trained on."""


def load_data(
    data: DataConfig,
    model: ModelConfig,
    cache_dir: Path,
    data_dir: Path | None = None,
    progress: Report | None = None,
    shared: SharedDataSets | None = None,
) -> Dataset:
    """The images that `data` asks for, in the model's size and channels.

    They are built once, into a folder of `cache_dir` named from everything that decides the bytes, and checked against
    its checksums whenever they are opened. A damaged folder is reported in the log and built again. Several processes
    may ask for the same data at once: one builds, the others wait.

    Args:
        data: which images.
        model: gives height, width and channels.
        cache_dir: folder for caches; it is made if need be.
        data_dir: where MNIST and image folders are looked for; may be read-only.
        progress: called while building, with (split, done, all).
        shared: asked before anything is built, and given what was built; its files are checked like those of the cache.

    Raises:
        DataError: the source is missing, damaged, empty or outside of the allowed roots, the scenes asked for can't be
            made, or `cache_dir` can't be written.
    """
    settings: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "data": image_settings(data),
        "height": model.height,
        "width": model.width,
        "channels": model.channels,
    }
    build: Callable[[Path, Report | None], Built]
    if isinstance(data, ImagesConfig):
        roots = AllowedRoots.configured(data_dir)
        folder = roots.locate(data.path, "data.path")
        annotations = roots.locate(data.annotations, "data.annotations") if data.annotations else None
        settings["files"] = images.fingerprint(folder, images.find_images(folder, roots).names, annotations)
        build = partial(images.build_images, data, model, folder, annotations, roots=roots)
    else:
        build = partial(_build_scenes, data, model, cache_dir, data_dir)
    name = f"{data.kind}-{hashlib.sha256(_canonical(settings).encode()).hexdigest()[:16]}"
    return _cached(cache_dir / name, settings, build, progress, shared)


def _cached(
    folder: Path,
    settings: dict[str, Any],
    build: Callable[[Path, Report | None], Built],
    progress: Report | None,
    shared: SharedDataSets | None,
) -> Dataset:
    """What is in `folder`, after building it where that is needed."""
    cached = _open(folder)
    if cached:
        with suppress(OSError):
            os.utime(folder / _MANIFEST)  # which caches may be removed is seen by when they were last used
        return cached
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            # Another process may have built it while this one waited.
            cached = _open(folder)
            if cached is None and shared is not None:
                shared.fetch(folder)
                cached = _open(folder)
            if cached is None:
                _store(folder, settings, build, progress)
                cached = _open(folder)
                if cached is not None and shared is not None:
                    shared.store(folder)
    except OSError as error:
        raise DataError(f"data could not be put into {folder.parent}: {error}") from error
    if cached is None:
        raise DataError(f"{folder} was damaged while it was written")
    return cached


def _build_scenes(
    data: MnistScenesConfig | SpritesConfig | TetrominoesConfig,
    model: ModelConfig,
    cache_dir: Path,
    data_dir: Path | None,
    _scratch: Path,
    progress: Report | None,
) -> Built:
    shape = (model.height, model.width, model.channels)
    makers: dict[Split, Callable[[range], Scenes]]
    match data:
        case SpritesConfig():
            makers, source = (
                {split: partial(make_sprites, data, *shape, split) for split in SPLITS},
                "generated sprites",
            )
        case TetrominoesConfig():
            makers = {split: partial(make_tetrominoes, data, *shape, split) for split in SPLITS}
            source = "generated tetrominoes"
        case MnistScenesConfig():
            with FileLock(cache_dir / "digits.lock"):
                digits = load_digits(data.digits, cache_dir, data_dir)
            of_split = zip(SPLITS, (digits.train, digits.val, digits.test), strict=True)
            makers = {split: partial(make_scenes, data, *shape, of, split) for split, of in of_split}
            source = digits.description
    built: dict[Split, Scenes] = {}
    for split, make in makers.items():
        report = partial(progress, split) if progress else None
        built[split] = _make_in_parallel(make, scene_count(data, split), report)
    return built, source, {}


def _make_in_parallel(make: Callable[[range], Scenes], total: int, report: Callable[[int, int], None] | None) -> Scenes:
    """Scenes 0 to `total`, by as many processes as there are cores. They don't depend on which process makes them."""
    chunks = [range(first, min(first + _CHUNK, total)) for first in range(0, total, _CHUNK)]
    calls = (joblib.delayed(make)(chunk) for chunk in chunks)
    parts: list[Scenes] = []
    for part in joblib.Parallel(n_jobs=min(joblib.cpu_count(), len(chunks)), return_as="generator")(calls):
        parts.append(part)
        if report:
            report(min(len(parts) * _CHUNK, total), total)
    return Scenes.joined(parts)


def _store(
    folder: Path,
    settings: dict[str, Any],
    build: Callable[[Path, Report | None], Built],
    progress: Report | None,
) -> None:
    """Builds into a folder beside `folder` and renames it, so that `folder` is whole or absent. The lock is held."""
    for left in folder.parent.glob(f"{folder.name}.building-*"):
        shutil.rmtree(left)
    building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=folder.parent))
    try:
        scratch = building / "scratch"
        scratch.mkdir()
        built, source, skipped = build(scratch, progress)
        arrays = {}
        for split, scenes in built.items():
            for name, array in _arrays(scenes):
                file = f"{split}-{name}.npy"
                np.save(building / file, array)
                arrays[file] = {"sha256": _digest(array), "shape": list(array.shape), "dtype": str(array.dtype)}
        shutil.rmtree(scratch)
        manifest = {
            "settings": settings,
            "source": source,
            "skipped": skipped,
            "checksum": _checksum(arrays),
            "arrays": arrays,
        }
        (building / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        building.chmod(0o755)  # mkdtemp keeps others out
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _open(folder: Path) -> Dataset | None:
    """The data in a cache folder; None where there is none, or where it is not what its manifest says."""
    if not folder.exists():
        return None
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        expected: dict[str, dict[str, Any]] = manifest["arrays"]
        if manifest["checksum"] != _checksum(expected):
            raise ValueError(f"the checksum in {_MANIFEST} is wrong")
        splits: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
        for file, entry in expected.items():
            # "c": writing to the array is allowed (torch asks for that) and never reaches the file.
            array = np.load(folder / file, mmap_mode="c", allow_pickle=False)
            if _digest(array) != entry["sha256"]:
                raise ValueError(f"{file} is not what was written")
            split, name = file.removesuffix(".npy").split("-")
            splits[split][name] = array
        train, val, test = (Scenes(**splits[split]) for split in SPLITS)
        of_test = _checksum({file: entry for file, entry in expected.items() if file.startswith("test-")})
        return Dataset(train, val, test, str(manifest["source"]), str(manifest["checksum"]), of_test)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("cached data in %s is damaged, it is built again: %s", folder, error)
        return None


def _arrays(scenes: Scenes) -> list[tuple[str, NDArray[Any]]]:
    given = [(field.name, getattr(scenes, field.name)) for field in fields(scenes)]
    return [(name, array) for name, array in given if array is not None]


def _digest(array: NDArray[Any]) -> str:
    """SHA-256 of an array's type, shape and bytes."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _checksum(arrays: dict[str, dict[str, Any]]) -> str:
    return hashlib.sha256(_canonical({file: entry["sha256"] for file, entry in arrays.items()}).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
