"""Film strips of a model's work on the first images of a split, as a PNG."""

import io

import numpy as np

from seqae.data.scenes import Scenes
from seqae.reconstructor import Reconstructor
from seqae.rendering.frames import contact_sheet, filmstrip

__all__ = ["film_strips"]

_IMAGES = 4


def film_strips(reconstructor: Reconstructor, scenes: Scenes) -> bytes:
    """PNG of the first images as a model rebuilds them step by step, one film strip below the other.

    Args:
        reconstructor: the model.
        scenes: of its size and channels.
    """
    images = np.moveaxis(np.asarray(scenes.images[:_IMAGES]), 1, -1)
    sheet = contact_sheet([filmstrip(made) for made in reconstructor.reconstruct_arrays(images)])
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
