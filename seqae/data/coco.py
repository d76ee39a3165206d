"""Reader of COCO's instances JSON: the objects of an image as masks at the model's size. For evaluation only."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from seqae.data.boxes import tight_box
from seqae.data.preprocess import centre_box
from seqae.errors import DataError

__all__ = ["Annotations"]

_FINE = 4  # polygons are drawn so much larger, and a pixel counts that is covered by half
_MOST = 255  # objects in an image that a mask of bytes can hold

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class _Object:
    """One object at the model's size: `mask` bool [H, W]."""

    mask: NDArray[np.bool_]
    category: int
    crowd: bool


class Annotations:
    """An instances JSON that was read: the objects of every image that it names."""

    def __init__(self, path: Path, objects: dict[str, list[dict[str, Any]]]) -> None:
        self._path = path
        self._objects = objects

    @classmethod
    def read(cls, path: Path, names: Sequence[str]) -> "Annotations":
        """Reads the JSON; COCO's own for 118,000 images takes some 3 GB of memory meanwhile.

        Args:
            path: of the JSON.
            names: the files of interest, relative to the folder; the JSON knows them by that name, or its last part.

        Raises:
            DataError: it can't be read, is not in COCO's format, or names none of the files.
        """
        try:
            content = json.loads(path.read_bytes())
            named = {image["id"]: str(image["file_name"]) for image in content["images"]}
            objects: dict[str, list[dict[str, Any]]] = {name: [] for name in named.values()}
            for entry in content["annotations"]:
                kept = {key: entry[key] for key in ("segmentation", "category_id", "iscrowd")}
                objects[named[entry["image_id"]]].append(kept)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not an instances file of COCO: {error!r}") from error
        if not any(name in objects or PurePosixPath(name).name in objects for name in names):
            raise DataError(f"{path} names none of the {len(names)} images, such as {names[0]}")
        return cls(path, objects)

    def scenes(
        self, names: Sequence[str], sizes: Sequence[tuple[int, int]], height: int, width: int
    ) -> dict[str, NDArray[Any]]:
        """What `Scenes` keeps beside the images: masks, overlap, boxes, labels (category ids) and counts.

        Objects are numbered from the largest to the smallest, so that of two the smaller is on top. Crowds are no
        objects: their pixels are left out, as overlaps are. An object that covers less than half of every pixel is
        left out as well.

        Args:
            names: M files, relative to the folder; one that the JSON does not name has no objects.
            sizes: width and height of each file's image.
            height: H of the model's images.
            width: W of the model's images.

        Raises:
            DataError: a segmentation is not in COCO's format.
        """
        keys = [name if name in self._objects else PurePosixPath(name).name for name in names]
        found = [
            self._objects_of(key, self._objects.get(key, []), size, height, width)
            for key, size in zip(keys, sizes, strict=True)
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

    def _objects_of(
        self, name: str, entries: list[dict[str, Any]], size: tuple[int, int], height: int, width: int
    ) -> list[_Object]:
        crop = centre_box(size, height, width)
        try:
            objects = [
                _Object(
                    _raster(entry["segmentation"], crop, height, width),
                    int(entry["category_id"]),
                    bool(entry["iscrowd"]),
                )
                for entry in entries
            ]
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise DataError(f"{self._path} has a segmentation of {name} that is not COCO's: {error!r}") from error
        seen = sorted((each for each in objects if each.mask.any()), key=lambda each: -int(each.mask.sum()))
        return seen[:_MOST]


def _raster(segmentation: Any, crop: Box, height: int, width: int) -> NDArray[np.bool_]:
    """Polygons, or run lengths as COCO has them for crowds, cut to `crop` and brought to [height, width]."""
    if isinstance(segmentation, dict):
        rows, columns = segmentation["size"]
        runs = np.array(segmentation["counts"], np.int64)  # of 0 and 1 in turn, down the columns
        whole = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(columns, rows).T
        picture = Image.fromarray(np.where(whole, 255, 0).astype(np.uint8))
        share = picture.resize((width, height), Image.Resampling.BOX, box=crop)
        return np.asarray(share) >= 128
    left, top, right, _ = crop
    scale = width * _FINE / (right - left)
    fine = Image.new("L", (width * _FINE, height * _FINE))
    draw = ImageDraw.Draw(fine)
    for polygon in segmentation:
        # PIL's pixel 0 is drawn around 0, COCO's goes from 0 to 1.
        points = (np.array(polygon, np.float64).reshape(-1, 2) - (left, top)) * scale - 0.5
        draw.polygon([(float(x), float(y)) for x, y in points], fill=255)
    return np.asarray(fine.reduce(_FINE)) >= 128
