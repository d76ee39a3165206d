import io
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from seqae.data import preprocess
from seqae.data.preprocess import centre_box, fit, orientation

WHITE = np.full((12, 16), 255, np.uint8)


def ramp(height: int, width: int) -> NDArray[np.uint8]:
    """Grey that grows with the column."""
    return np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))


@pytest.mark.parametrize(
    ("size", "height", "width", "box"),
    [
        ((200, 100), 64, 64, (50, 0, 150, 100)),
        ((100, 300), 64, 64, (0, 100, 100, 200)),
        ((64, 64), 64, 64, (0, 0, 64, 64)),
        ((300, 100), 32, 64, (50, 0, 250, 100)),
        ((101, 100), 10, 10, (0.5, 0, 100.5, 100)),
        ((1, 1000), 10, 10, (0, 499.5, 1, 500.5)),
    ],
)
def test_the_largest_centred_box_of_the_models_aspect(
    size: tuple[int, int], height: int, width: int, box: tuple[float, ...]
) -> None:
    assert centre_box(size, height, width) == pytest.approx(box)


def test_a_picture_of_the_models_size_stays_as_it_is() -> None:
    given = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(fit(Image.fromarray(given), 20, 30, 3), given)
    grey = given[..., 0]
    np.testing.assert_array_equal(fit(Image.fromarray(grey), 20, 30, 1)[..., 0], grey)


def test_the_sides_are_cropped_not_squeezed() -> None:
    picture = np.zeros((40, 100), np.uint8)
    picture[:, 30:70] = 255  # exactly the centred square
    inside = fit(Image.fromarray(picture), 10, 10, 1)
    assert inside[:, 1:-1].min() > 250
    picture = 255 - picture
    assert fit(Image.fromarray(picture), 10, 10, 1)[:, 1:-1].max() < 5


def test_rows_and_columns_keep_their_places() -> None:
    picture = np.zeros((60, 90), np.uint8)
    picture[:30, :30] = 255
    small = fit(Image.fromarray(picture), 20, 30, 1)[..., 0]
    assert small[:9, :9].min() > 250
    assert small[11:].max() < 5
    assert small[:, 11:].max() < 5


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (1, 1), (3, 2), (700, 500)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size(size: tuple[int, int], channels: int) -> None:
    small = fit(Image.new("RGB", size, (90, 90, 90)), 12, 16, channels)
    assert small.shape == (12, 16, channels)
    assert small.dtype == np.uint8
    assert np.all(small == 90)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "LA", "PA"])
def test_white_is_white_in_any_mode(mode: str) -> None:
    white = Image.fromarray(WHITE).convert("RGB")
    if mode == "LAB":
        picture = Image.merge("LAB", [Image.new("L", (16, 12), value) for value in (255, 128, 128)])
    else:
        picture = white.convert("P").convert("PA") if mode == "PA" else white.convert(mode)
    assert picture.mode == mode
    for channels in (1, 3):
        assert fit(picture, 12, 16, channels).min() >= 253


@pytest.mark.parametrize("dtype", [">u2", "<u2"])
def test_sixteen_bit_grey_is_scaled(dtype: str) -> None:
    """PIL's own conversion clips it: nearly all would be white."""
    values = ramp(12, 16).astype(dtype) * 257
    picture = Image.frombytes("I;16B" if dtype == ">u2" else "I;16", (16, 12), values.tobytes())
    np.testing.assert_allclose(fit(picture, 12, 16, 1)[..., 0], ramp(12, 16), atol=1)


def test_float_grey_is_zero_to_one() -> None:
    picture = Image.fromarray((ramp(12, 16) / 255).astype(np.float32))
    assert picture.mode == "F"
    np.testing.assert_allclose(fit(picture, 12, 16, 1)[..., 0], ramp(12, 16), atol=1)


@pytest.mark.parametrize("most", [1.0001, 300.0, 1e30, np.inf])
def test_one_value_does_not_decide_the_scale_of_floats(most: float) -> None:
    """D7: float 0..1 with one larger value was black."""
    values = (ramp(12, 16) / 255).astype(np.float32)
    values[0, 15] = most
    np.testing.assert_allclose(fit(Image.fromarray(values), 12, 16, 1)[..., 0], ramp(12, 16), atol=1)


@pytest.mark.parametrize("most", [1, 200, 255, 256, 300, 65535])
def test_the_largest_value_does_not_decide_the_scale_of_integers(most: int) -> None:
    """D7: 16-bit grey up to 255 was shown 257 times as bright as with one value of 300."""
    values = np.full((12, 16), 200, np.uint16)
    values[5, 5] = most
    for picture in (Image.fromarray(values), Image.fromarray(values.astype(np.int32))):
        assert picture.mode in ("I;16", "I")
        assert fit(picture, 12, 16, 1)[0, 0, 0] == 0, "200 of 65,535 is nearly black"


def test_pixels_that_are_no_numbers_are_black() -> None:
    values = np.full((12, 16), 0.8, np.float32)
    values[0, 0] = np.nan
    found = fit(Image.fromarray(values), 12, 16, 1)
    assert found[0, 0, 0] == 0
    assert found[5, 5, 0] == 204


def test_thirty_two_bit_grey() -> None:
    picture = Image.fromarray(ramp(12, 16).astype(np.int32) * 257)
    assert picture.mode == "I"
    np.testing.assert_allclose(fit(picture, 12, 16, 1)[..., 0], ramp(12, 16), atol=1)


def test_transparency_lies_over_black() -> None:
    picture = Image.new("RGBA", (16, 12), (255, 255, 255, 0))
    picture.paste((255, 255, 255, 255), (8, 0, 16, 12))
    small = fit(picture, 12, 16, 1)[..., 0]
    assert small[:, :8].max() == 0
    assert small[:, 8:].min() == 255


def test_transparent_palette_entry_lies_over_black() -> None:
    picture = Image.new("P", (16, 12), 1)
    picture.putpalette([0, 0, 0, 255, 255, 255, 255, 255, 255])
    picture.info["transparency"] = 1
    assert fit(picture, 12, 16, 3).max() == 0
    picture.info["transparency"] = 2
    assert fit(picture, 12, 16, 3).min() == 255


def with_orientation(picture: Image.Image, orientation: int) -> Image.Image:
    """As a camera writes it."""
    stream = io.BytesIO()
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(stream, "PNG", exif=exif)
    return Image.open(stream)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """Eight ways to hold a camera; the picture itself is the same each time."""
    upright = np.random.default_rng(0).integers(0, 256, (12, 16), np.uint8)
    turn = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    stored = with_orientation(Image.fromarray(np.ascontiguousarray(turn)), orientation)
    np.testing.assert_array_equal(fit(stored, 12, 16, 1)[..., 0], upright)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "I", "F", "I;16", "1"])
def test_a_large_picture_is_converted_in_bands_to_the_same(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 4), np.uint8)
    colour = Image.fromarray(pixels)
    if mode == "I;16":
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 250)
    else:
        picture = colour.convert("L").convert(mode) if mode in ("I", "F", "1") else colour.convert(mode)
    if mode == "P":
        picture.info["transparency"] = 5
    for channels in (1, 3):
        whole = fit(picture, 12, 16, channels)
        monkeypatch.setattr(preprocess, "_BAND", 500)
        np.testing.assert_array_equal(fit(picture, 12, 16, channels), whole)
        monkeypatch.undo()


@pytest.mark.parametrize(
    "damage", [b"Exif\x00\x00II*\x00\xff\xff\xff\x7f", b"Exif\x00\x00", b"Exif\x00\x00MM\x00*" + b"\xff" * 40]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_ignored(damage: bytes) -> None:
    """D6: a picture with damaged EXIF is shown."""
    stream = io.BytesIO()
    Image.new("L", (16, 12), 77).save(stream, "JPEG", exif=damage)
    assert fit(Image.open(stream), 12, 16, 1).mean() == pytest.approx(77, abs=2)


def test_the_rotation_counts_where_other_exif_is_damaged() -> None:
    """D6: a division by zero in another tag does not hide the orientation."""
    stream = io.BytesIO()
    upright = np.random.default_rng(0).integers(0, 256, (12, 16), np.uint8)
    tiff = b"II*\x00\x08\x00\x00\x00\x02\x00"
    tiff += struct.pack("<HHIHxx", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x011A, 5, 1, 38) + bytes(4)
    tiff += struct.pack("<ii", -1, 0)
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(stream, "PNG", exif=b"Exif\x00\x00" + tiff)
    picture = Image.open(stream)
    assert orientation(picture) == 6
    np.testing.assert_array_equal(fit(picture, 12, 16, 1)[..., 0], upright)
    stored = fit(Image.open(stream), 16, 12, 1, as_stored=True)[..., 0]
    np.testing.assert_array_equal(stored, np.rot90(upright))
