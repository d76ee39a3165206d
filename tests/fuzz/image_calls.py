"""Requests to `/reconstruct` with images of every format that begin as valid ones and are then damaged."""

import base64
import io
import json
import random
from collections.abc import Iterator

from PIL import Image

from tests.fuzz.calls import Call

__all__ = ["image_calls"]

_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
_MODES = {"PNG": ("L", "RGB", "RGBA", "P", "1", "LA", "I;16"), "JPEG": ("L", "RGB", "CMYK"), "TIFF": ("L", "F", "I;16")}
_SIZES = ((1, 1), (16, 16), (64, 48), (3, 500), (900, 700))
_ACCEPT = (
    "*/*",
    "image/gif",
    "image/png",
    "application/x-npz",
    "application/json",
    "text/html",
    "image/*;q=x",
    "",
    ",",
)
_SELECTORS = (
    "champion",
    "digits",
    "digits/1",
    "digits/9",
    "digits@champion",
    "1",
    "job_000000000001",
    "nothing",
    "%00",
)


def image_calls(rng: random.Random) -> Iterator[Call]:
    """Endless calls.

    Args:
        rng: makes them.
    """
    while True:
        content = _damaged(rng, _image(rng))
        query = f"?model={rng.choice(_SELECTORS)}" if rng.random() < 0.5 else ""
        headers, body = _multipart(rng, content) if rng.random() < 0.7 else _json(rng, content)
        accept = () if rng.random() < 0.4 else (("accept", rng.choice(_ACCEPT)),)
        yield Call("POST", f"/reconstruct{query}", (*headers, *accept), body)


def _image(rng: random.Random) -> bytes:
    kind = rng.choice(_FORMATS)
    mode = rng.choice(_MODES.get(kind, ("L", "RGB")))
    width, height = rng.choice(_SIZES)
    image = Image.frombytes("L", (width, height), rng.randbytes(width * height))
    if mode == "I;16":
        image = Image.frombytes(mode, (width, height), rng.randbytes(2 * width * height))
    elif mode == "F":
        image = image.convert("F").point(lambda value: value * 0.004 + 0)
    elif mode != "L":
        image = image.convert(mode)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = rng.choice((0, 1, 6, 9))
    options = {"exif": exif} if kind in ("JPEG", "WEBP", "PNG") and rng.random() < 0.3 else {}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _damaged(rng: random.Random, content: bytes) -> bytes:
    """The image with some of its bytes changed; a third stay whole. Headers are hit more often than pixels."""
    changed = bytearray(content)
    match rng.randrange(9):
        case 0 | 1:
            return content[: rng.randrange(len(content))]
        case 2 | 3:
            for _ in range(rng.randint(1, 12)):
                changed[rng.randrange(min(len(changed), 200))] = rng.randrange(256)
        case 4:
            for _ in range(rng.randint(1, 50)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        case 5:
            at, length = rng.randrange(len(changed)), rng.randint(1, 64)
            changed[at:at] = changed[at : at + length] * rng.choice((1, 5, 200))
    return bytes(changed)


def _multipart(rng: random.Random, content: bytes) -> tuple[tuple[tuple[str, str], ...], bytes]:
    name, boundary = rng.choices(("file", "image", "", 'a"b'), (20, 1, 1, 1))[0], "limit"
    filename = rng.choice(("a.png", "", "../../x", "\xff", "a" * 3000))
    kind = rng.choice(("image/png", "application/octet-stream", "text/plain; charset=nothing", ""))
    part = f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"; filename="{filename}"\r\n'.encode("latin-1")
    part += f"content-type: {kind}\r\n\r\n".encode() + content + b"\r\n"
    end = rng.choices((b"--limit--\r\n", b"", b"--limit--\r\ntrailing", b"--limit\r\n"), (20, 1, 1, 1))[0]
    body = part * rng.choices((1, 2, 30), (20, 1, 1))[0] + end
    header = rng.choices(("limit", '"limit"', "other", "", "x" * 500), (20, 3, 1, 1, 1))[0]
    return (("content-type", f"multipart/form-data; boundary={header}"),), body


def _json(rng: random.Random, content: bytes) -> tuple[tuple[tuple[str, str], ...], bytes]:
    text = base64.b64encode(content).decode()
    match rng.randrange(8):
        case 0:
            text = "data:image/png;base64," + text
        case 1:
            text = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
        case 2:
            text = text.replace("+", "-").replace("/", "_").rstrip("=")
        case 3:
            text = text[: rng.randrange(len(text) + 1)] + rng.choice(("", "=", "*", "\u00e9", "\x00"))
    body: object = {"image": text}
    if rng.random() < 0.15:
        body = rng.choice(
            ([text], {"image": [text]}, {"image": None}, {"picture": text}, text, {"image": text, "x": 1})
        )
    return (("content-type", "application/json"),), json.dumps(body).encode()
