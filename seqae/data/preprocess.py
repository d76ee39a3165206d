"""Preprocessing of pictures: crop, resize and convert any of them to the array that the model takes."""

import numpy as np
from PIL import Image, ImageOps

__all__ = ["centre_box", "fit"]


def centre_box(size: tuple[int, int], height: int, width: int) -> tuple[float, float, float, float]:
    """The largest centred box of the model's aspect in a picture: left, top, right, bottom in the picture's pixels.

    Args:
        size: of the picture, (width, height) as PIL gives it.
        height: of the model's images.
        width: of the model's images.
    """
    scale = min(size[0] / width, size[1] / height)
    left, top = (size[0] - scale * width) / 2, (size[1] - scale * height) / 2
    return left, top, left + scale * width, top + scale * height


def _eight_bit(image: Image.Image) -> Image.Image:
    """16- and 32-bit grey as 8-bit; PIL's own conversion would clip it to white."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    top = 1.0 if image.mode == "F" and values.max() <= 1 else 255.0 if values.max() <= 255 else 65535.0
    return Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))


def fit(image: Image.Image, height: int, width: int, channels: int) -> np.ndarray:
    """The largest centred part of a picture of the model's aspect, resized: uint8 [height, width, channels].

    EXIF rotation is applied, transparency is laid over black, 16-bit grey is scaled to 8.

    Args:
        image: of any size and mode.
        height: of the result, pixels.
        width: likewise.
        channels: 1 for grey, 3 for colour.

    Raises:
        OSError: the picture is truncated (PIL decodes it here).
    """
    image = _eight_bit(ImageOps.exif_transpose(image))
    if image.mode == "LAB":
        image = image.convert("RGB")  # the only way out of it that PIL has
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
    image = image.convert("L" if channels == 1 else "RGB")
    box = centre_box(image.size, height, width)
    small = image.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.asarray(small, dtype=np.uint8).reshape(height, width, channels)
