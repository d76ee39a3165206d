"""Baselines that learn nothing: segments of images by connected components, k-means, equal blocks and SLIC.

Each gives owners of pixels [M, H, W], from 1 on, 0 for background, which are scored as a model's segments are.

Foreground is where an image differs from its background by as much as for a model with an empty canvas
(`seqae.segmentation.ownership.FOREGROUND_LEVEL`). The background is known, or taken to be the median colour of the
image's border, so bright and dark ones of one colour are both seen as such. No single colour is a texture or a photo's
background: there connected components need the known one, and the others take all pixels.
"""

import warnings
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seqae.data.scenes import Scenes
from seqae.evaluation.scores import OwnerScores, OwnerTables, object_count, score_owners, tabulate_owners

__all__ = [
    "Baseline",
    "blocks",
    "border_colours",
    "connected_components",
    "find_foreground",
    "kmeans",
    "partition",
    "score_segments",
    "slic",
]

_CHUNK = 64  # images worked on at once, to bound memory
_LEVEL = 32  # of 255: FOREGROUND_LEVEL in bytes, which a difference reaches or not
_PLACE_WEIGHT = 2.0  # of k-means: the longer side against the range of a channel; 2 to 3 is best on COCO at 64 pixels
_SEED = 0  # of k-means' first centres

Bytes = NDArray[np.uint8]
Owners = NDArray[np.int32]
Bools = NDArray[np.bool_]


class Baseline(StrEnum):
    """Methods that learn nothing and take a number of segments, by name."""

    BLOCKS = "blocks"
    KMEANS = "kmeans"
    SLIC = "slic"


def border_colours(images: Bytes) -> Bytes:
    """Median of the outermost pixels of each image and channel, [M, C, 1, 1].

    Args:
        images: [M, C, H, W].
    """
    edges = (images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1])
    return np.asarray(np.median(np.concatenate(edges, axis=2), axis=2)[:, :, None, None], np.uint8)


def find_foreground(images: Bytes, backgrounds: Bytes | None = None) -> Bools:
    """Pixels [M, H, W] that differ from the background by 32 of 255 or more, in the channel that differs most.

    Args:
        images: [M, C, H, W].
        backgrounds: what lies behind the objects, of a shape that fits [M, C, H, W]; the median colour of each image's
            border when left out.
    """
    behind = border_colours(images) if backgrounds is None else backgrounds
    return np.asarray((np.abs(images.astype(np.int16) - behind) >= _LEVEL).any(axis=1))


def connected_components(images: Bytes, backgrounds: Bytes | None = None) -> Owners:
    """Owners where each connected patch of foreground (corners count) is a segment.

    Args:
        images: [M, C, H, W].
        backgrounds: as for `find_foreground`.
    """
    owners = np.zeros((len(images), *images.shape[2:]), np.int32)
    for row, foreground in enumerate(find_foreground(images, backgrounds)):
        owners[row], _ = ndimage.label(foreground, structure=np.ones((3, 3), np.int8))
    return owners


def blocks(images: Bytes, rows: int = 2, columns: int = 3) -> Owners:
    """Owners where each image is cut into equal rectangles, whatever it shows.

    Args:
        images: [M, C, H, W].
        rows: of rectangles.
        columns: likewise.
    """
    height, width = images.shape[2:]
    down, right = np.arange(height) * rows // height, np.arange(width) * columns // width
    return np.broadcast_to((down[:, None] * columns + right + 1).astype(np.int32), (len(images), height, width)).copy()


def kmeans(images: Bytes, segments: int, foreground: Bools | None = None) -> Owners:
    """Owners by k-means on colour and place, image by image.

    Args:
        images: [M, C, H, W].
        segments: k; an image with fewer distinct pixels gets fewer.
        foreground: [M, H, W], the pixels that are clustered; the others are background. All when left out.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    height, width = images.shape[2:]
    places = np.moveaxis(np.indices((height, width)), 0, -1) * (_PLACE_WEIGHT / max(height, width))
    owners = np.zeros((len(images), height, width), np.int32)
    for row, image in enumerate(images):
        features = np.concatenate([np.moveaxis(image, 0, -1) / 255, places], axis=2)
        chosen = np.ones((height, width), np.bool_) if foreground is None else foreground[row]
        if not chosen.any():
            continue
        k = min(segments, int(chosen.sum()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct pixels than k
            owners[row][chosen] = KMeans(k, n_init=2, random_state=_SEED).fit_predict(features[chosen]) + 1
    return owners


def slic(images: Bytes, segments: int) -> Owners:
    """Owners by SLIC superpixels (Achanta et al., 2012), about `segments` an image, of all pixels.

    Args:
        images: [M, C, H, W]; colour is compared in CIELAB, grey as it is.
        segments: how many are aimed at.

    Raises:
        ImportError: scikit-image is not installed; the extra `seqae[bench]` has it.
    """
    from skimage.segmentation import slic as superpixels

    owners = np.zeros((len(images), *images.shape[2:]), np.int32)
    for row, image in enumerate(images):
        colour = len(image) == 3
        shown = np.moveaxis(image, 0, -1) if colour else image[0]
        # Colours of CIELAB are in 0..100, greys in 0..1.
        given = {"compactness": 10.0, "channel_axis": -1} if colour else {"compactness": 0.1, "channel_axis": None}
        owners[row] = superpixels(shown, segments, start_label=1, **given)
    return owners


def partition(baseline: Baseline, images: Bytes, segments: int = 6) -> Owners:
    """Owners by the baseline of that name, of all pixels, about `segments` an image; blocks are 2 rows of half as many.

    Args:
        baseline: which.
        images: [M, C, H, W].
        segments: an even number for blocks.
    """
    match baseline:
        case Baseline.BLOCKS:
            return blocks(images, 2, segments // 2)
        case Baseline.KMEANS:
            return kmeans(images, segments)
        case Baseline.SLIC:
            return slic(images, segments)


def score_segments(owners: NDArray[np.integer], scenes: Scenes) -> OwnerScores:
    """Scores of owners, a chunk of images at a time.

    Args:
        owners: [M, H, W], from 1 on; 0 is background.
        scenes: the M images with their masks.

    Raises:
        ValueError: the scenes have no masks, or there are more or fewer of them than owners.
    """
    segments, objects = max(int(owners.max(initial=0)), 1), object_count(scenes)  # there may be none at all
    if len(owners) != len(scenes.images):
        raise ValueError(f"{len(owners)} images' owners and {len(scenes.images)} images")
    parts = [slice(first, first + _CHUNK) for first in range(0, len(owners), _CHUNK)]
    tables = [
        tabulate_owners(owners[part], scenes.part(part.start, part.stop), segments=segments, objects=objects)
        for part in parts
    ]
    return score_owners(OwnerTables.joined(tables))
