"""Images of one split with what is known about their objects, whatever data set they come from."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scenes"]


@dataclass(frozen=True)
class Scenes:
    """Images of one split, and what is known about them: for evaluation only, never for training.

    Where an image folder has no annotations, everything but `images` is None.
    """

    images: NDArray[np.uint8]
    """[M, C, H, W], 0..255. From a cache it is a copy-on-write memory map: writing to it never changes the file."""

    masks: NDArray[np.uint8] | None = None
    """[M, H, W]: 0 is background, k is the k-th object, counted from 1; under several objects, the topmost."""

    overlap: NDArray[np.bool_] | None = None
    """[M, H, W]: pixels of more than one object, or of a crowd; they are left out of the segmentation's metrics."""

    boxes: NDArray[np.float32] | None = None
    """[M, K, 4]: left, top, right, bottom in pixels, right and bottom outside the object; NaN where there is none."""

    labels: NDArray[np.int64] | None = None
    """[M, K]: what the object is (a digit, a COCO category); -1 where there is none."""

    counts: NDArray[np.int64] | None = None
    """[M]: objects in the image."""

    amodal: NDArray[np.uint16] | None = None
    """[M, H, W]: bit k - 1 is set where the k-th object is, seen or hidden; None where the data does not know that."""

    def first(self, count: int) -> "Scenes":
        """The first `count` images, or all where there are fewer."""
        return self.part(0, count)

    def part(self, start: int, stop: int) -> "Scenes":
        """The images from `start` up to, but without, `stop`; not copied."""
        parts: dict[str, Any] = {}
        for field in fields(self):
            given = getattr(self, field.name)
            parts[field.name] = None if given is None else given[start:stop]
        return Scenes(**parts)

    def without_small(self, least_share: float) -> "Scenes":
        """The same images without objects that show on less than this share of the image, 0..1.

        Their pixels belong to nobody, as a crowd's do: they are left out of the metrics. Photos have many objects of a
        few pixels, which decide a mean over objects and which no model at a small size can find.

        Raises:
            ValueError: there are no masks.
        """
        if self.masks is None or self.overlap is None or self.counts is None:
            raise ValueError("these images have no masks to measure objects by")
        masks, overlap, counts = self.masks.copy(), self.overlap.copy(), self.counts.copy()
        least = least_share * masks[0].size if len(masks) else 0.0
        for row, mask in enumerate(self.masks):
            shown = np.bincount(mask.ravel(), minlength=int(self.counts[row]) + 1)[1:]
            small = np.flatnonzero(shown < least) + 1
            gone = np.isin(mask, small)
            masks[row][gone], overlap[row][gone] = 0, True
            counts[row] -= len(small)
        return Scenes(self.images, masks, overlap, counts=counts)

    def touching(self) -> NDArray[np.bool_]:
        """Images [M] in which pixels of two objects are neighbours, corners counted, or the same.

        Raises:
            ValueError: there are no masks.
        """
        if self.masks is None or self.overlap is None:
            raise ValueError("these images have no masks to tell objects by")
        masks = np.pad(self.masks, ((0, 0), (1, 1), (1, 1)))
        height, width = self.masks.shape[1:]
        found = np.asarray((self.overlap & (self.masks > 0)).any(axis=(1, 2)))
        for down, right in ((0, 1), (1, -1), (1, 0), (1, 1)):
            other = masks[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
            found |= np.asarray(((self.masks > 0) & (other > 0) & (other != self.masks)).any(axis=(1, 2)))
        return found

    @classmethod
    def joined(cls, parts: "Sequence[Scenes]") -> "Scenes":
        """Parts laid end to end; what one of them does not know is None."""
        joined: dict[str, Any] = {}
        for field in fields(cls):
            arrays = [getattr(part, field.name) for part in parts]
            joined[field.name] = None if any(array is None for array in arrays) else np.concatenate(arrays)
        return cls(**joined)
