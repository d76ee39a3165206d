"""Preprocessing of pictures: crop, resize and convert any of them to the array that the model takes."""

import numpy as np
from PIL import Image

__all__ = ["centre_box", "fit", "orientation", "upright"]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_BAND = 1 << 20  # pixels that are converted at a time: a picture's own pixels are the most that is in memory


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


def orientation(image: Image.Image) -> int:
    """How a picture is to be turned before it is shown, 1 to 8 as EXIF has it; 1 where the EXIF is damaged."""
    try:
        found = image.getexif().get(_ORIENTATION)
        return found if isinstance(found, int) and found in _TURNS else 1
    except Exception:  # noqa: BLE001
        # Each kind of damage raises another type; a picture is worth showing without its metadata.
        return 1


def upright(image: Image.Image) -> Image.Image:
    """A picture turned the way that it is to be shown.

    Raises:
        OSError: the picture is truncated (PIL decodes it here).
    """
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def fit(image: Image.Image, height: int, width: int, channels: int, *, as_stored: bool = False) -> np.ndarray:
    """The largest centred part of a picture of the model's aspect, resized: uint8 [height, width, channels].

    EXIF rotation is applied, damaged EXIF is ignored, transparency is laid over black. Grey of more than 8 bits is
    scaled by its type and never by its values, so that a dark picture stays dark: black to white is 0..65,535 for
    16-bit and 32-bit integers (PIL keeps 16-bit pictures in either), and 0..1 for floats. What is outside is cut off,
    and pixels that are no numbers are black.

    Args:
        image: of any size and mode.
        height: of the result, pixels.
        width: likewise.
        channels: 1 for grey, 3 for colour.
        as_stored: leaves the picture as the file has it, without EXIF rotation.

    Raises:
        OSError: the picture is truncated (PIL decodes it here).
    """
    mode = "L" if channels == 1 else "RGB"
    whole = _flat(image, mode)
    if not as_stored:
        turn = _TURNS.get(orientation(image))
        whole = whole if turn is None else whole.transpose(turn)
    box = centre_box(whole.size, height, width)
    small = whole.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.asarray(small, dtype=np.uint8).reshape(height, width, channels)


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """The picture in mode L or RGB, made in bands of rows, so that no second whole copy of a large one is needed."""
    image.load()
    if image.mode == mode and not image.has_transparency_data:
        return image
    rows = max(1, _BAND // image.width)
    flat = Image.new(mode, image.size)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        band = image.crop(box)
        flat.paste(_flat_band(band, mode), box)
    return flat


def _flat_band(image: Image.Image, mode: str) -> Image.Image:
    image = _eight_bit(image)
    if image.mode == "LAB":
        image = image.convert("RGB")  # the only way out of it that PIL has
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
    return image.convert(mode)


def _eight_bit(image: Image.Image) -> Image.Image:
    """16- and 32-bit grey as 8-bit; PIL's own conversion would clip it to white."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    white = 1.0 if image.mode == "F" else 65535.0
    values = np.nan_to_num(np.asarray(image, dtype=np.float32)).clip(0, white)
    return Image.fromarray((values * (255 / white)).astype(np.uint8))
