"""Image folders, in COCO's layout or any other: each image cropped, resized and decoded once, by several threads."""

import hashlib
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image

from seqae.config import ImagesConfig, ModelConfig
from seqae.data.coco import Annotations
from seqae.data.preprocess import fit
from seqae.data.scenes import Scenes
from seqae.data.splits import SPLITS, Split
from seqae.errors import DataError

__all__ = ["build_images", "find_images", "fingerprint", "locate", "split_images"]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_LARGE = 16_000_000  # pixels; one image at a time may be larger when it is decoded, so that memory stays bounded
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_log = logging.getLogger(__name__)

Report = Callable[[str, int, int], None]


def locate(path: str, data_dir: Path | None) -> Path:
    """A configured path as an existing one; a relative path starts at the data folder.

    Raises:
        DataError: nothing is there, or the path is relative and there is no data folder.
    """
    found = Path(path)
    if not found.is_absolute():
        if data_dir is None:
            raise DataError(f"{path} is relative to the data folder (SEQAE_DATA_DIR), and none is set")
        found = data_dir / found
    if not found.exists():
        raise DataError(f"there is no {found}")
    return found.resolve()


def find_images(folder: Path) -> list[str]:
    """Names of all image files below a folder, relative to it, sorted; hidden ones are left out.

    Raises:
        DataError: there are fewer than three, one for each split.
    """
    names = []
    for below, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = Path(below).relative_to(folder)
        names += [
            (here / name).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in _SUFFIXES
        ]
    if len(names) < len(SPLITS):
        raise DataError(f"{folder} has {len(names)} images; three or more are needed, one for each split")
    return sorted(names)


def fingerprint(folder: Path, names: Sequence[str], annotations: Path | None) -> str:
    """A hash that changes when a file is added, removed or written again, found without reading any."""
    digest = hashlib.sha256(str(folder).encode())
    for path in [*(folder / name for name in names), *([annotations] if annotations else [])]:
        try:
            status = path.stat()
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        except OSError:  # a link to nowhere, say: it is reported when it can't be decoded
            digest.update(f"{path}\n".encode())
    return digest.hexdigest()


def split_images(names: Sequence[str], config: ImagesConfig) -> dict[Split, list[str]]:
    """Which images train, which are chosen on and which test, decided by a hash of each name: the same everywhere.

    Where there are fewer than `train_images + test_images`, one in eleven is kept for `test`; where there are fewer
    than all three ask for, one in eleven for `val`. The first in the order of the hashes are `test`, the next `val`.
    """
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    count, one_in_eleven = len(ordered), max(1, len(ordered) // 11)
    enough = count >= config.train_images + config.test_images
    # Some are left for the other two splits, whatever was asked for.
    test = min(config.test_images, count - 2 if enough else one_in_eleven)
    enough = count >= config.train_images + config.val_images + test
    val = min(config.val_images, count - test - 1 if enough else one_in_eleven)
    train = ordered[test + val : test + val + config.train_images]
    return {"train": train, "val": ordered[test : test + val], "test": ordered[:test]}


def build_images(
    config: ImagesConfig,
    model: ModelConfig,
    folder: Path,
    annotations: Path | None,
    scratch: Path,
    progress: Report | None = None,
) -> tuple[dict[Split, Scenes], str, dict[str, str]]:
    """Decodes the images of all splits.

    Args:
        config: how many images.
        model: gives height, width and channels.
        folder: with images below it.
        annotations: COCO instances JSON, or None.
        scratch: an empty folder for arrays that may be larger than memory; it must outlive the result.
        progress: called with (split, done, all).

    Returns:
        The scenes by split; the source in words; the files that were skipped, each with the reason.

    Raises:
        DataError: there are too few images, none of a split can be decoded, or the annotations can't be used.
    """
    everything = find_images(folder)
    known = Annotations.read(annotations, everything) if annotations else None
    built: dict[Split, Scenes] = {}
    skipped: dict[str, str] = {}
    for split, names in split_images(everything, config).items():
        images = open_memmap(
            scratch / f"{split}.npy", "w+", np.uint8, (len(names), model.channels, model.height, model.width)
        )
        sizes, failed = _decode(images, folder, names, known is not None, split, progress)
        for name, reason in failed.items():
            _log.warning("%s is skipped: %s", folder / name, reason)
        skipped |= failed
        kept = [at for at, name in enumerate(names) if name not in failed]
        if not kept:
            raise DataError(f"none of the {len(names)} {split} images in {folder} can be decoded")
        good = images if len(kept) == len(names) else images[kept]
        facts: dict[str, Any] = {}
        if known:
            facts = known.scenes([names[at] for at in kept], [sizes[at] for at in kept], model.height, model.width)
        built[split] = Scenes(good, **facts)
    counts = " + ".join(f"{len(built[split].images):,}" for split in SPLITS)
    words = f"{counts} images in {folder}"
    return built, f"{words}, {len(skipped):,} damaged ones skipped" if skipped else words, skipped


def _decode(
    images: NDArray[np.uint8],
    folder: Path,
    names: Sequence[str],
    as_stored: bool,
    split: str,
    progress: Report | None,
) -> tuple[list[tuple[int, int]], dict[str, str]]:
    """Fills `images` [n, C, H, W]; returns the files' sizes (width, height), and the reason for each that failed."""
    _, channels, height, width = images.shape
    sizes = [(0, 0)] * len(names)
    failed: dict[str, str] = {}
    large = Lock()

    def decode(at: int) -> None:
        try:
            with Image.open(folder / names[at]) as image:
                sizes[at] = image.size
                if as_stored:  # annotations are given in the file's own pixels, before any rotation
                    image.getexif().pop(0x0112, None)
                _draft(image, height, width, channels)
                with large if image.width * image.height > _LARGE else nullcontext():
                    images[at] = np.moveaxis(fit(image, height, width, channels), -1, 0)
        except _DAMAGED as error:
            failed[names[at]] = str(error) or type(error).__name__

    # Filters belong to the whole process, so they are set here and not in the threads.
    with warnings.catch_warnings(), ThreadPoolExecutor(len(os.sched_getaffinity(0)) + 1) as threads:
        warnings.simplefilter("ignore")  # remarks about odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for done, _ in enumerate(threads.map(decode, range(len(names))), start=1):
            if progress and (done % 100 == 0 or done == len(names)):
                progress(split, done, len(names))
    return sizes, failed


def _draft(image: Image.Image, height: int, width: int, channels: int) -> None:
    """Lets a JPEG be decoded at a half, a quarter or an eighth of its size, if that is still twice what is needed.

    Without that margin fine patterns come out visibly different, and the time goes into the entropy coding anyway.
    """
    shrink = min(image.size) / (2 * max(height, width))
    if shrink > 1:
        image.draft("L" if channels == 1 else "RGB", (int(image.width / shrink), int(image.height / shrink)))
