"""Rasterization of COCO's segmentations: polygons and (compressed) run lengths as masks at the model's size."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

__all__ = ["SegmentationError", "rasterize"]

_FINE = 4  # polygons are drawn so much larger, and a pixel counts that is covered by half
_FARTHEST = 100_000.0  # pixels that a corner may lie outside
_MOST_PIXELS = 100_000_000  # of a mask in run lengths

Box = tuple[float, float, float, float]  # left, top, right, bottom


class SegmentationError(ValueError):
    """A segmentation that is not in COCO's format. The text says why, without its content."""


def rasterize(
    segmentation: Any, crop: Box, file_size: tuple[int, int], frame: tuple[int, int], height: int, width: int
) -> NDArray[np.bool_]:
    """Mask of an object, cut to `crop` and brought to [height, width].

    Args:
        segmentation: polygons, or an object with `size` and `counts`.
        crop: in the file's pixels.
        file_size: width and height of the file's picture.
        frame: width and height of the picture that the polygons are drawn on; run lengths have their own.
        height: H of the model's images.
        width: W of the model's images.

    Raises:
        SegmentationError: it is not in COCO's format.
    """
    if isinstance(segmentation, dict):
        whole = _run_lengths(segmentation)
        rows, columns = whole.shape
        picture = Image.fromarray(np.where(whole, 255, 0).astype(np.uint8))
        box = _scaled(crop, file_size, (columns, rows))
        return np.asarray(picture.resize((width, height), Image.Resampling.BOX, box=box)) >= 128
    left, top, right, bottom = _scaled(crop, file_size, frame)
    scale = np.array([width * _FINE / (right - left), height * _FINE / (bottom - top)])
    fine = Image.new("L", (width * _FINE, height * _FINE))
    draw = ImageDraw.Draw(fine)
    for polygon in _polygons(segmentation):
        # PIL's pixel 0 is drawn around 0, COCO's goes from 0 to 1.
        points = (polygon - (left, top)) * scale - 0.5
        draw.polygon([(float(x), float(y)) for x, y in points], fill=255)
    return np.asarray(fine.reduce(_FINE)) >= 128


def _scaled(crop: Box, file_size: tuple[int, int], frame: tuple[int, int]) -> Box:
    """A box of the file's pixels in those of the picture that was annotated."""
    across, down = frame[0] / file_size[0], frame[1] / file_size[1]
    if (frame[0] - frame[1]) * (file_size[0] - file_size[1]) < 0:
        raise SegmentationError("annotated on a picture turned by a quarter")
    left, top, right, bottom = crop
    # Rounding must not carry an edge outside, which PIL refuses.
    return left * across, top * down, min(right * across, frame[0]), min(bottom * down, frame[1])


def _polygons(segmentation: Any) -> list[NDArray[np.float64]]:
    """Corners [n, 2] of each polygon."""
    if not isinstance(segmentation, list) or not segmentation:
        raise SegmentationError("segmentation is neither polygons nor run lengths")
    found = []
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise SegmentationError("a polygon has not an x and a y for each of three or more corners")
        if not all(isinstance(value, (int, float)) and abs(value) <= _FARTHEST for value in polygon):
            raise SegmentationError("a polygon has corners that are no numbers, or far outside of the picture")
        found.append(np.array(polygon, np.float64).reshape(-1, 2))
    return found


def _run_lengths(segmentation: dict[str, Any]) -> NDArray[np.bool_]:
    """Mask [rows, columns] out of runs of 0 and 1 in turn, down the columns."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise SegmentationError("the size of the run lengths is not two positive numbers")
    pixels = math.prod(size)
    if pixels > _MOST_PIXELS:
        raise SegmentationError(f"run lengths of more than {_MOST_PIXELS:,} pixels")
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    if not (isinstance(runs, list) and all(type(run) is int and 0 <= run <= pixels for run in runs)):
        raise SegmentationError("run lengths are not counts of pixels")
    if sum(runs) != pixels:
        raise SegmentationError("run lengths do not add up to the size")
    return np.repeat(np.arange(len(runs)) % 2 == 1, np.array(runs, np.int64)).reshape(size[1], size[0]).T


def _decompressed(text: str) -> list[int]:
    """Run lengths out of COCO's text: five bits a character, lowest first, each the difference to the last but one."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 50:
            raise SegmentationError("compressed run lengths are not in COCO's code")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise SegmentationError("compressed run lengths end too early")
    return runs
