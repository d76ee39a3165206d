"""Reader of COCO's instances JSON: the objects of an image as masks at the model's size. For evaluation only.

An entry that can't be used is skipped, counted and named by its JSON pointer, without its content; the rest is used.
"""

import json
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqae.data.boxes import tight_box
from seqae.data.coco_masks import SegmentationError, rasterize
from seqae.data.paths import open_regular, printable
from seqae.data.preprocess import centre_box
from seqae.errors import DataError

__all__ = ["Annotations", "SkippedEntries"]

_MOST = 255  # objects in an image that a mask of bytes can hold
_MOST_BYTES = 4 << 30  # of the JSON
_MOST_NAMED = 1_000  # skipped entries that are named; all are counted


@dataclass(frozen=True)
class _Entry:
    """One annotation as it was given, its ids checked."""

    pointer: str
    segmentation: Any
    category: int
    crowd: bool


@dataclass(frozen=True)
class _AnnotatedImage:
    """What the JSON has about one image."""

    pointer: str
    name: str
    size: tuple[int, int] | None
    """Width and height that the annotations are drawn on; None: the file's."""
    entries: list[_Entry] = field(default_factory=list)


@dataclass(frozen=True)
class _Object:
    """One object at the model's size: `mask` bool [H, W]."""

    mask: NDArray[np.bool_]
    category: int
    crowd: bool


@dataclass
class SkippedEntries:
    """Entries that can't be used: how many, and why, by JSON pointer; of very many only the first are named."""

    count: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, pointer: str, reason: str) -> None:
        """Counts an entry once.

        Args:
            pointer: of the entry, such as #/annotations/3.
            reason: why it can't be used, without its content.
        """
        if pointer in self.reasons:
            return
        self.count += 1
        if len(self.reasons) < _MOST_NAMED:
            self.reasons[pointer] = reason


class Annotations:
    """An instances JSON that was read: the objects of every image that it names.

    Args:
        images: by the name of their file, relative to the folder.
        skipped: entries that could not be used so far; `scenes` adds to them.
    """

    def __init__(self, images: dict[str, _AnnotatedImage], skipped: SkippedEntries) -> None:
        self._images = images
        self.skipped = skipped

    @classmethod
    def read(cls, path: Path, names: Sequence[str]) -> "Annotations":
        r"""Reads the JSON; COCO's own for 118,000 images takes some 3 GB of memory meanwhile.

        Args:
            path: of the JSON.
            names: the files of interest, relative to the folder. The JSON knows them by that name, or by the last parts
                of it; `.` and `\` in names are understood. A name that fits two files belongs to neither.

        Raises:
            DataError: it can't be read, is not in COCO's format, or names none of the files.
        """
        content = _load(path)
        skipped = SkippedEntries()
        images = _images(content["images"], skipped)
        _add_entries(images, content["annotations"], skipped)
        sure = skipped.count
        found = _match({image.name: image for image in images.values()}, names, skipped)
        if not found:
            unsure = " without doubt" if skipped.count > sure else ""
            raise DataError(
                f"{printable(str(path))} names none of the {len(names)} images{unsure}, such as {printable(names[0])}"
            )
        return cls(found, skipped)

    def scenes(
        self, names: Sequence[str], sizes: Sequence[tuple[int, int]], height: int, width: int
    ) -> dict[str, NDArray[Any]]:
        """What `Scenes` keeps beside the images: masks, overlap, boxes, labels (category ids) and counts.

        Objects are numbered from the largest to the smallest, so that of two the smaller is on top. Crowds are no
        objects: their pixels are left out, as overlaps are. An object that covers less than half of every pixel is
        left out as well. Annotations of a picture of another size than the file's are scaled.

        Args:
            names: M files, relative to the folder; one that the JSON does not name has no objects.
            sizes: width and height of each file's image.
            height: H of the model's images.
            width: W of the model's images.
        """
        found = [
            self._objects_of(self._images[name], size, height, width) if name in self._images else []
            for name, size in zip(names, sizes, strict=True)
        ]
        counts = np.array([sum(not each.crowd for each in objects) for objects in found], np.int64)
        most = max(1, int(counts.max()))
        masks = np.zeros((len(names), height, width), np.uint8)
        overlap = np.zeros((len(names), height, width), np.bool_)
        boxes = np.full((len(names), most, 4), np.nan, np.float32)
        labels = np.full((len(names), most), -1, np.int64)
        for row, objects in enumerate(found):
            k = 0
            for each in objects:
                overlap[row] |= each.mask if each.crowd else each.mask & (masks[row] > 0)
                if not each.crowd:
                    boxes[row, k], labels[row, k] = tight_box(each.mask), each.category
                    k += 1
                    masks[row][each.mask] = k
        return {"masks": masks, "overlap": overlap, "boxes": boxes, "labels": labels, "counts": counts}

    def _objects_of(self, image: _AnnotatedImage, size: tuple[int, int], height: int, width: int) -> list[_Object]:
        crop = centre_box(size, height, width)
        objects = []
        for entry in image.entries:
            try:
                mask = rasterize(entry.segmentation, crop, size, image.size or size, height, width)
            except SegmentationError as error:
                self.skipped.add(entry.pointer, str(error))
                continue
            if mask.any():
                objects.append(_Object(mask, entry.category, entry.crowd))
        return sorted(objects, key=lambda each: -int(each.mask.sum()))[:_MOST]


def _load(path: Path) -> dict[str, Any]:
    """The JSON, with lists `images` and `annotations`."""
    what = f"{printable(str(path))} is not an instances file of COCO"
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > _MOST_BYTES:
                raise DataError(f"{what}: it is larger than {_MOST_BYTES >> 30} GiB")
            content = json.loads(file.read())
    except OSError as error:
        raise DataError(f"{printable(str(path))} can't be read: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        # Without the cause: its text is harmless, but the bytes around it are not ours to show.
        raise DataError(f"{what}: it is not JSON at line {error.lineno}, column {error.colno}") from None
    except (ValueError, RecursionError, MemoryError):
        raise DataError(f"{what}: it is not JSON, or nested too deeply, or too large") from None
    if not isinstance(content, dict):
        raise DataError(f"{what}: it is not an object")
    for name in ("images", "annotations"):
        if not isinstance(content.get(name), list):
            raise DataError(f"{what}: it has no list `{name}`")
    return content


def _images(given: list[Any], skipped: SkippedEntries) -> dict[str, _AnnotatedImage]:
    """The JSON's images by their id."""
    found: dict[str, _AnnotatedImage] = {}
    by_name: dict[str, _AnnotatedImage] = {}
    for at, entry in enumerate(given):
        pointer = f"#/images/{at}"
        key = _id(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if key is None or not isinstance(name, str) or not name:
            skipped.add(pointer, "has no id or no file_name")
            continue
        if key in found:
            skipped.add(pointer, "has the id of an image before it")
            continue
        name, size = _plain(name), _size(entry)
        same = by_name.setdefault(name, _AnnotatedImage(pointer, name, size))
        if same.size != size:
            skipped.add(pointer, "has the file_name of an image before it, and another size")
            continue
        found[key] = same
    return found


def _add_entries(images: dict[str, _AnnotatedImage], given: list[Any], skipped: SkippedEntries) -> None:
    for at, entry in enumerate(given):
        pointer = f"#/annotations/{at}"
        if not isinstance(entry, dict):
            skipped.add(pointer, "is not an object")
            continue
        image = images.get(_id(entry.get("image_id")) or "")
        category = _whole(entry.get("category_id"))
        crowd = entry.get("iscrowd", 0)
        if image is None:
            skipped.add(pointer, "its image_id is that of no image")
        elif category is None:
            skipped.add(pointer, "its category_id is not a whole number of 64 bits")
        elif crowd not in (0, 1, None):
            skipped.add(pointer, "its iscrowd is neither 0 nor 1")
        elif entry.get("segmentation") is None:
            skipped.add(pointer, "has no segmentation")
        else:
            image.entries.append(_Entry(pointer, entry["segmentation"], category, bool(crowd)))


def _match(
    images: dict[str, _AnnotatedImage], names: Sequence[str], skipped: SkippedEntries
) -> dict[str, _AnnotatedImage]:
    """Which image of the JSON a file is; a name that fits two files, or a file that fits two names, is refused."""
    by_plain: dict[str, list[str]] = {}
    by_base: dict[str, list[str]] = {}
    for name in names:
        by_plain.setdefault(_plain(name), []).append(name)
    for plain, files in by_plain.items():
        if plain not in images:  # it has an image of its own
            by_base.setdefault(posixpath.basename(plain), []).extend(files)
    claims: dict[str, list[_AnnotatedImage]] = {}
    for plain, image in images.items():
        files = by_plain.get(plain) or _same_ending(plain, by_base.get(posixpath.basename(plain), ()))
        if len(files) > 1:
            skipped.add(image.pointer, f"its file_name fits two files: {printable(files[0])}, {printable(files[1])}")
        elif files:
            claims.setdefault(files[0], []).append(image)
    for file, claimants in claims.items():
        if len(claimants) > 1:
            for image in claimants:
                skipped.add(image.pointer, f"its file_name and that of another image fit two ways: {printable(file)}")
    return {file: claimants[0] for file, claimants in claims.items() if len(claimants) == 1}


def _same_ending(plain: str, files: Iterable[str]) -> list[str]:
    """The files whose name ends in this one, or the other way round, in whole parts."""
    found: list[str] = []
    for file in files:
        if len(found) == 2:  # enough to be in doubt
            break
        other = _plain(file)
        if f"/{other}".endswith(f"/{plain}") or f"/{plain}".endswith(f"/{other}"):
            found.append(file)
    return found


def _plain(name: str) -> str:
    """A file name with one spelling: `/` between parts, no `.` parts, composed letters."""
    return posixpath.normpath(unicodedata.normalize("NFC", name.replace("\\", "/"))).lstrip("/")


def _id(value: Any) -> str | None:
    """An id as text: 7, 7.0 and "7" are the same; None for what is no id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 2**64 else None
    return value.strip() or None if isinstance(value, str) and len(value) <= 1_000 else None


def _whole(value: Any) -> int | None:
    """A number, or one in text, that fits into 64 bits."""
    text = _id(value) or ""
    number = int(text) if text.removeprefix("-").isdecimal() else None
    return number if number is not None and abs(number) < 2**63 else None


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    if type(width) is int and type(height) is int and 0 < width < 2**31 and 0 < height < 2**31:
        return width, height
    return None
