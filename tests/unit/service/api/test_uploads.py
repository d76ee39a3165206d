"""Decoding an uploaded picture within limits."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from service.api.uploads import Upload, decode
from service.errors import UploadError

LIMIT = 1_000_000


def picture(width: int = 24, height: int = 16) -> Image.Image:
    """A picture that looks different in each of its eight positions."""
    image = Image.new("L", (width, height))
    image.paste(255, (0, 0, width // 2, height // 4))
    return image


def upload(image: Image.Image, kind: str = "PNG", exif: Image.Exif | None = None) -> Upload:
    stream = BytesIO()
    image.save(stream, kind, exif=exif or Image.Exif())
    return Upload(stream.getvalue(), is_json=False)


def test_a_picture_may_have_as_many_pixels_as_the_limit_and_no_more() -> None:
    assert decode(upload(picture(20, 10)), 200).size == (20, 10)
    with pytest.raises(UploadError, match="20 x 10 pixels, more than 199") as refused:
        decode(upload(picture(20, 10)), 199)
    assert refused.value.part == "file"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_turned_picture_is_decoded_upright(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    upright = picture()
    found = decode(upload(upright.transpose(Image.Transpose.ROTATE_90), kind, exif), LIMIT)
    assert found.size == upright.size
    assert np.abs(np.asarray(found.convert("L"), float) - np.asarray(upright, float)).mean() < 8


@pytest.mark.parametrize("kind", ["EPS", "ICO", "TGA", "PCX", "PDF"])
def test_a_format_whose_decoder_is_not_trusted_is_refused(kind: str) -> None:
    stream = BytesIO()
    picture().save(stream, kind)
    with pytest.raises(UploadError, match="is not an image of a known format"):
        decode(Upload(stream.getvalue(), is_json=False), LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_the_known_formats_are_decoded(kind: str) -> None:
    stream = BytesIO()
    picture().save(stream, kind)
    assert decode(Upload(stream.getvalue(), is_json=False), LIMIT).size == (24, 16)
