"""Image folders, in COCO's layout or any other: each image cropped, resized and decoded once, by several threads."""

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image

from seqae.config import ImagesConfig, ModelConfig
from seqae.data.coco import Annotations
from seqae.data.decoding import PictureError, open_picture, reason_of, sniff
from seqae.data.paths import ROOTS_VARIABLE, AllowedRoots, open_regular, printable
from seqae.data.preprocess import fit
from seqae.data.scenes import Scenes
from seqae.data.splits import SPLITS, Split
from seqae.errors import DataError

__all__ = ["ImageFiles", "build_images", "find_images", "fingerprint", "split_images"]

_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_LARGE = 16_000_000  # pixels; one image at a time may be larger when it is decoded, so that memory stays bounded
_LARGE_FILE = 64_000_000  # bytes; likewise
_LARGEST_FILE = 1_000_000_000  # bytes; larger files are skipped
_LEADS_OUT = f"a link out of the data folder and of the further roots ({ROOTS_VARIABLE})"
_log = logging.getLogger(__name__)

Report = Callable[[str, int, int], None]


@dataclass
class ImageFiles:
    """The image files below a folder."""

    names: list[str] = field(default_factory=list)
    """Relative to the folder, sorted."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Folders and links that were not followed, and why."""


def find_images(folder: Path, roots: AllowedRoots | None = None) -> ImageFiles:
    """Finds the image files below a folder; hidden ones are left out.

    Files are known by their suffix, others by their first bytes. Links to folders are followed, each folder once.

    Args:
        folder: without links.
        roots: links out of these are not followed; without it every link is.

    Raises:
        DataError: there are fewer than three, one for each split.
    """
    found = ImageFiles()
    seen: set[tuple[int, int]] = set()
    links = [folder]
    while links:  # what is no link first, so that a link changes no file's name
        links.sort(reverse=True)
        following = links.pop()
        if following != folder and roots is not None and not roots.contain(following):
            found.skipped[_name(following, folder)] = _LEADS_OUT
            continue
        links += _find_below(following, folder, roots, seen, found)
    if len(found.names) < len(SPLITS):
        why = "".join(f"; {printable(name)}: {reason}" for name, reason in list(found.skipped.items())[:3])
        raise DataError(
            f"{printable(str(folder))} has {len(found.names)} images; three or more are needed, one for each split{why}"
        )
    found.names.sort()
    return found


def _find_below(
    start: Path, folder: Path, roots: AllowedRoots | None, seen: set[tuple[int, int]], found: ImageFiles
) -> list[Path]:
    """Adds the images below one folder to `found`, without following links to folders, which are returned."""
    links: list[Path] = []
    waiting = [start]
    while waiting:
        here = waiting.pop()
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(here.iterdir())
        except OSError as error:
            found.skipped[_name(here, folder)] = f"can't be read: {reason_of(error)}"
            continue
        for path in entries:
            if path.name.startswith("."):
                continue
            if _is_folder(path):
                (links if path.is_symlink() else waiting).append(path)
            elif not _may_be_image(path):
                continue
            elif roots is not None and path.is_symlink() and not roots.contain(path):
                found.skipped[_name(path, folder)] = _LEADS_OUT
            else:
                found.names.append(_name(path, folder))
    return links


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a link to itself
        return False


def _may_be_image(path: Path) -> bool:
    if path.suffix.lower() in _SUFFIXES:
        return True
    try:
        with open_regular(path) as file:
            return sniff(file.read(16))
    except OSError:
        return False


def fingerprint(folder: Path, names: Sequence[str], annotations: Path | None) -> str:
    """A hash that changes when a file is added, removed or written again, found without reading any."""
    digest = hashlib.sha256(os.fsencode(folder))
    for path in [*(folder / name for name in names), *([annotations] if annotations else [])]:
        try:
            status = path.stat()
            digest.update(os.fsencode(path) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        except OSError:  # a link to nowhere, say: it is reported when it can't be decoded
            digest.update(os.fsencode(path) + b"\n")
    return digest.hexdigest()


def split_images(names: Sequence[str], config: ImagesConfig) -> dict[Split, list[str]]:
    """Which images train, which are chosen on and which test, decided by a hash of each name: the same everywhere.

    Where there are fewer than `train_images + test_images`, one in eleven is kept for `test`; where there are fewer
    than all three ask for, one in eleven for `val`. The first in the order of the hashes are `test`, the next `val`.
    """
    ordered = sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
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
    roots: AllowedRoots | None = None,
) -> tuple[dict[Split, Scenes], str, dict[str, str]]:
    """Decodes the images of all splits.

    Args:
        config: how many images.
        model: gives height, width and channels.
        folder: with images below it.
        annotations: COCO instances JSON, or None.
        scratch: an empty folder for arrays that may be larger than memory; it must outlive the result.
        progress: called with (split, done, all).
        roots: links out of these are not followed.

    Returns:
        The scenes by split; the source in words; what was skipped, each with the reason: files by name, and entries of
        the annotations by JSON pointer.

    Raises:
        DataError: there are too few images, none of a split can be decoded, or the annotations can't be used.
    """
    files = find_images(folder, roots)
    known = Annotations.read(annotations, files.names) if annotations else None
    built: dict[Split, Scenes] = {}
    skipped = {printable(name): reason for name, reason in files.skipped.items()}
    for split, names in split_images(files.names, config).items():
        images = open_memmap(
            scratch / f"{split}.npy", "w+", np.uint8, (len(names), model.channels, model.height, model.width)
        )
        sizes, failed = _decode(images, folder, names, known is not None, split, progress)
        skipped |= {printable(name): reason for name, reason in failed.items()}
        kept = [at for at, name in enumerate(names) if name not in failed]
        if not kept:
            raise DataError(f"none of the {len(names)} {split} images in {printable(str(folder))} can be decoded")
        good = images if len(kept) == len(names) else images[kept]
        facts: dict[str, Any] = {}
        if known:
            facts = known.scenes([names[at] for at in kept], [sizes[at] for at in kept], model.height, model.width)
        built[split] = Scenes(good, **facts)
    for name, reason in skipped.items():
        _log.warning("%s is skipped: %s", folder / name, reason)
    counts = " + ".join(f"{len(built[split].images):,}" for split in SPLITS)
    words = f"{counts} images in {printable(str(folder))}"
    if skipped:
        words += f", {len(skipped):,} damaged ones skipped"
    if known and known.skipped.count:
        words += f", {known.skipped.count:,} entries of the annotations skipped"
        for pointer, reason in known.skipped.reasons.items():
            _log.warning("%s of %s is skipped: %s", pointer, annotations, reason)
        skipped |= known.skipped.reasons
    return built, words, skipped


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
            with open_regular(folder / names[at]) as file:
                size = os.fstat(file.fileno()).st_size
                if size > _LARGEST_FILE:
                    raise PictureError(f"has more than {_LARGEST_FILE:,} bytes")
                with large if size > _LARGE_FILE else nullcontext():
                    image = open_picture(file.read())
                    sizes[at] = image.size
                    _draft(image, height, width, channels)
                    with large if image.width * image.height > _LARGE and size <= _LARGE_FILE else nullcontext():
                        # Annotations are given in the file's own pixels, before any rotation.
                        images[at] = np.moveaxis(fit(image, height, width, channels, as_stored=as_stored), -1, 0)
        except Exception as error:  # noqa: BLE001
            # Decoders raise many kinds for damaged bytes; whatever it is, it is this file's own.
            failed[names[at]] = reason_of(error)

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
