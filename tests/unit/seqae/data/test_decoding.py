"""Opening pictures that are not trusted."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from seqae.data.decoding import FORMATS, PictureError, jpeg_scans, open_picture, reason_of, sniff
from seqae.data.paths import NotRegularError
from seqae.data.preprocess import fit
from tests.unit.seqae.data.jpegs import with_scans


def picture(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (24, 32, 4), np.uint8)
    Image.fromarray(values).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_known_by_its_first_bytes(kind: str) -> None:
    """D5: files without a suffix are found by content."""
    assert sniff(picture(kind)[:16])
    assert open_picture(picture(kind)).size == (32, 24)


@pytest.mark.parametrize("head", [b"", b"hello, this is text", b"%!PS-Adobe-3.0", b"<svg", b"\x00" * 16, b"PK\x03\x04"])
def test_what_is_no_picture_is_not_taken_for_one(head: bytes) -> None:
    assert not sniff(head)


def test_scans_are_counted_before_anything_is_decoded() -> None:
    """D3: 1,200 scans cost 51 seconds."""
    assert jpeg_scans(picture("JPEG")) == 1
    assert 3 < jpeg_scans(picture("JPEG", progressive=True)) < 12
    for count in (20, 100, 1200):
        assert jpeg_scans(with_scans(count)) == count
    assert open_picture(with_scans(100)).size == (32, 32)
    with pytest.raises(PictureError, match="more than 100 progressive scans"):
        open_picture(with_scans(101))


def test_scans_are_neither_hidden_nor_made_up_by_other_segments() -> None:
    """D3: markers within a segment are its content."""
    data = with_scans(150)
    end_in_comment = data[:2] + segment(0xFE, b"\xff\xd9") + data[2:]
    assert jpeg_scans(end_in_comment) == 150
    last = data.rindex(b"\xff\xda")
    between = data[:last] + segment(0xFE, b"\xff\xd9" * 5) + b"\xff\xff\xff" + data[last:]
    assert jpeg_scans(between) == 150
    plain = picture("JPEG")
    assert jpeg_scans(plain[:2] + segment(0xE5, b"\xff\xda\x00\x02" * 200) + plain[2:]) == 1
    assert jpeg_scans(plain + b"\xff\xda\x00\x02" * 200) == 1, "a film behind the picture"


@pytest.mark.parametrize("rest", [b"", b"\xff", b"\xff\xda", b"\xff\xda\x00", b"\xff\xe1\x00\x00" * 50, b"\xff" * 99])
def test_counting_ends_on_any_bytes(rest: bytes) -> None:
    assert jpeg_scans(b"\xff\xd8" + rest) <= 1


@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xED, 0xFE])
@pytest.mark.parametrize(
    "content", [b"Exif\x00\x00" + b"\xff" * 30, b"MPF\x00" + b"\xff" * 30, b"Photoshop 3.0\x008BIM\xff"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Image appears to be a malformed MPO")
def test_damaged_metadata_is_ignored(marker: int, content: bytes) -> None:
    """D6: a picture with damaged metadata is shown."""
    data = picture("JPEG")
    found = fit(open_picture(data[:2] + segment(marker, content) + data[2:]), 24, 32, 3)
    np.testing.assert_array_equal(found, fit(open_picture(data), 24, 32, 3))


def test_reasons_quote_nothing_of_the_file() -> None:
    """D1: PIL's own words may hold bytes of the file."""
    assert reason_of(SyntaxError("broken PNG file (chunk b'root')")) == "damaged or truncated"
    assert "known format" in reason_of(UnidentifiedImageError("cannot identify /etc/passwd"))
    assert reason_of(FileNotFoundError(2, "x", "/etc/passwd")) == "No such file or directory"
    assert reason_of(NotRegularError("not a regular file")) == "not a regular file"
    assert reason_of(MemoryError()) == "needs too much memory"
    assert reason_of(Image.DecompressionBombError()) == "has too many pixels"


@pytest.mark.filterwarnings("ignore")
def test_mutated_pictures_end_in_a_picture_or_a_reason() -> None:
    """D3, D4, D6: whatever the bytes are."""
    generator = np.random.default_rng(0)
    kinds = {"PNG": "RGBA", "JPEG": "RGB", "GIF": "P", "TIFF": "RGB", "BMP": "RGB", "WEBP": "RGB", "PPM": "L"}
    exif = {"exif": b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + bytes(30)}
    shown = 0
    reasons: set[str] = set()
    for kind, mode in kinds.items():
        encoded = picture(kind, mode, **exif if kind in ("PNG", "JPEG", "WEBP") else {})
        whole = np.frombuffer(encoded, np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            # Headers are where it matters most.
            reach = len(damaged) if generator.random() < 0.5 else min(120, len(damaged))
            damaged[generator.integers(0, reach, 6)] = generator.integers(0, 256, 6)
            data = damaged.tobytes()[: generator.integers(1, len(damaged) + 1) if generator.random() < 0.2 else None]
            try:
                image = open_picture(data)
                if image.width * image.height > 1_000_000:
                    continue
                assert fit(image, 12, 16, 1).shape == (12, 16, 1)
                shown += 1
            except Exception as error:  # noqa: BLE001
                reasons.add(reason_of(error))
    assert shown > 50
    assert len(reasons) > 1
