"""Decoding of untrusted pictures: formats by name, a bound on progressive scans, damaged metadata ignored."""

import os
import re
import struct
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from seqae.data.paths import NotRegularError

__all__ = ["FORMATS", "MOST_SCANS", "PictureError", "jpeg_scans", "open_picture", "reason_of", "sniff"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Decoders that are plain code over bytes. PIL has others that start programs (EPS) or open further files."""

MOST_SCANS = 100
"""Most scans of a JPEG. Each costs a pass over all pixels; encoders write about ten."""

_SOI, _SOS, _EOI = 0xD8, 0xDA, 0xD9
_BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # what ends a scan's data
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM....\x00\x00\x00\x00|"
    rb"II\x2a\x00|MM\x00\x2a|II\x2b\x00|MM\x00\x2b|P[1-6][ \t\r\n#]",
    re.DOTALL,
)


class PictureError(ValueError):
    """A picture that is refused before it is decoded. Its text is our own, and quotes nothing of the file."""


def sniff(head: bytes) -> bool:
    """Whether a file's first 16 bytes are those of a picture of a known format."""
    return _MAGIC.match(head) is not None


def open_picture(data: bytes) -> Image.Image:
    """Opens a picture by its header; nothing is decoded yet.

    A JPEG whose metadata (EXIF, profiles, comments) can't be read is opened without them.

    Raises:
        PictureError: it is a JPEG of more than `MOST_SCANS` scans.
        Exception: whatever PIL raises for bytes that are no picture of a known format.
    """
    is_jpeg = data[:2] == b"\xff\xd8"
    if is_jpeg and (scans := jpeg_scans(data)) > MOST_SCANS:
        raise PictureError(f"has more than {MOST_SCANS} progressive scans ({scans:,})")
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except Exception:
        if not is_jpeg:
            raise
        return Image.open(BytesIO(_without_metadata(data)), formats=FORMATS)


def jpeg_scans(data: bytes) -> int:
    """Scans of a JPEG, counted by its markers up to the end of its first picture."""
    at, scans = 2, 0
    while (segment := _segment(data, at)) is not None:
        marker, _, end = segment
        if marker == _EOI:
            break
        at = end
        if marker == _SOS:
            scans += 1
            found = _MARKER.search(data, end)
            if found is None:
                break
            at = found.start()
    return scans


def _segment(data: bytes, at: int) -> tuple[int, int, int] | None:
    """The marker at or after `at`, where it begins and where its segment ends; None if there is no other."""
    found = _MARKER.search(data, at)
    if found is None:
        return None
    start, marker = found.start(), data[found.start() + 1]
    if marker in _BARE or marker == _EOI:
        return marker, start, start + 2
    length = struct.unpack_from(">H", data, start + 2)[0] if start + 4 <= len(data) else 2
    return marker, start, start + 2 + max(2, length)


def _without_metadata(data: bytes) -> bytes:
    """A JPEG without its APP1 to APP13, APP15 and comment segments. APP0 and APP14 tell how colours are coded."""
    kept, at = [data[:2]], 2
    while (segment := _segment(data, at)) is not None:
        marker, start, end = segment
        if marker in (_SOS, _EOI):
            kept.append(data[start:])
            break
        if not (0xE1 <= marker <= 0xED or marker in (0xEF, 0xFE)):
            kept.append(data[start:end])
        at = end
    return b"".join(kept)


def reason_of(error: BaseException) -> str:
    """Why a picture can't be decoded, in our own words: PIL's may quote bytes of the file."""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of a known format ({', '.join(FORMATS)})"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return "has too many pixels"
    if isinstance(error, MemoryError):
        return "needs too much memory"
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error) if isinstance(error, (PictureError, NotRegularError)) else "damaged or truncated"
