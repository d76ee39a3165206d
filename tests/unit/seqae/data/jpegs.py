"""JPEGs that are unlike a camera's."""

from io import BytesIO

from PIL import Image

__all__ = ["with_scans"]


def with_scans(count: int, side: int = 32, spread: float = 40) -> bytes:
    """A progressive JPEG of so many scans: its last one is said again and again.

    Args:
        count: how many.
        side: of its square, in pixels.
        spread: of its noise; without any its scans are small files and take as long.
    """
    buffer = BytesIO()
    Image.effect_noise((side, side), spread).convert("L").save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    scans = data.count(b"\xff\xda")
    return data[:end] + data[last:end] * (count - scans) + data[end:]
