"""Reading an uploaded picture, and decoding it within limits."""

import asyncio
import base64
import gzip
import json
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from seqae.config import ModelConfig
from service.api import uploads
from service.api.uploads import Upload
from service.errors import UploadError
from service.inference.decoder_pool import DecodedPicture, DecoderPool
from tests.unit.service.conftest import MakeApp, Serve

LIMIT = 1_000_000


def picture(width: int = 24, height: int = 16) -> Image.Image:
    """A picture that looks different in each of its eight positions."""
    image = Image.new("L", (width, height))
    image.paste(255, (0, 0, width // 2, height // 4))
    return image


def rainbow(width: int = 40, height: int = 30) -> Image.Image:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    return Image.fromarray(ramp)


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def upload(image: Image.Image, kind: str = "PNG", exif: Image.Exif | None = None) -> Upload:
    stream = BytesIO()
    image.save(stream, kind, exif=exif or Image.Exif())
    return Upload(stream.getvalue(), is_json=False)


Decode = Callable[..., DecodedPicture]


@pytest.fixture(scope="module")
def decode() -> Iterator[Decode]:
    """Decodes an upload for a model of 24 x 16."""
    model = ModelConfig(height=16, width=24, attention={"kernel_size": 8})
    pools: dict[int, DecoderPool] = {}
    with asyncio.Runner() as runner:

        def run(upload: Upload, max_pixels: int = LIMIT) -> DecodedPicture:
            pool = pools.setdefault(max_pixels, DecoderPool(max_pixels, seconds=10))
            return runner.run(uploads.decode(upload, pool, model))

        yield run
        for pool in pools.values():
            runner.run(pool.close())


def test_a_picture_may_have_as_many_pixels_as_the_limit_and_no_more(decode: Decode) -> None:
    assert decode(upload(picture(20, 10)), 200).size == (20, 10)
    with pytest.raises(UploadError, match="20 x 10 pixels, more than 199") as refused:
        decode(upload(picture(20, 10)), 199)
    assert refused.value.part == "file"


def test_an_empty_picture_says_so(decode: Decode) -> None:
    with pytest.raises(UploadError, match="is empty"):
        decode(Upload(b"", is_json=False), LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_turned_picture_is_decoded_upright(kind: str, decode: Decode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    upright = picture()
    found = decode(upload(upright.transpose(Image.Transpose.ROTATE_90), kind, exif), LIMIT)
    assert found.size == upright.size
    assert np.abs(found.pixels[..., 0].astype(float) - np.asarray(upright, float)).mean() < 8


@pytest.mark.parametrize("kind", ["EPS", "ICO", "TGA", "PCX", "PDF"])
def test_a_format_whose_decoder_is_not_trusted_is_refused(kind: str, decode: Decode) -> None:
    with pytest.raises(UploadError, match="not an image of a known format"):
        decode(Upload(encode(picture(), kind), is_json=False), LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_the_known_formats_are_decoded(kind: str, decode: Decode) -> None:
    assert decode(Upload(encode(picture(), kind), is_json=False), LIMIT).size == (24, 16)


def send(client: httpx.Client, data: bytes) -> httpx.Response:
    return client.post("/reconstruct", files={"file": ("scene", data)})


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return dict(answer.json())


# --- over HTTP, refused before there is any need of a model


def header_only(width: int, height: int) -> bytes:
    """A PNG that says it is large, and holds next to nothing."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\x00" * 100))]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


BAD_PICTURES = {
    "not an image": b"hello, I am a text",
    "empty": b"",
    "html": b"<html><body>404</body></html>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "truncated png": encode(rainbow(400, 300))[:600],
    "truncated jpeg": encode(rainbow(400, 300), "JPEG")[:700],
    "only a signature": b"\x89PNG\r\n\x1a\n",
    "a bomb": header_only(30_000, 30_000),
    "a small bomb": header_only(9_000, 9_000),
    "a bomb of zero width": header_only(0, 10),
    "a wrong check sum": encode(rainbow()).replace(b"IDAT", b"IDAT\x00", 1),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_names_the_field(client: httpx.Client, name: str) -> None:
    found = problem(send(client, BAD_PICTURES[name]), 422)
    assert found["errors"][0]["parameter"] == "file"
    text = base64.b64encode(BAD_PICTURES[name]).decode()
    found = problem(client.post("/reconstruct", json={"image": text}), 422)
    assert found["errors"][0]["pointer"] == "#/image"


def test_a_picture_over_the_configured_limit_of_pixels_is_refused(make_app: MakeApp, serve: Serve) -> None:
    client = serve(make_app(max_image_pixels=1200))
    problem(send(client, encode(picture(40, 30))), 503)  # it is taken, and then there is no model
    assert "40 x 31 pixels" in problem(send(client, encode(picture(40, 31))), 422)["detail"]


def test_a_picture_of_a_format_that_is_not_taken_says_so(client: httpx.Client) -> None:
    assert "not an image of a known format" in problem(send(client, encode(picture(), "EPS")), 422)["detail"]


def test_a_bomb_is_refused_by_its_header(client: httpx.Client) -> None:
    began = time.perf_counter()
    detail = problem(send(client, header_only(30_000, 30_000)), 422)["detail"]
    assert "pixels" in detail
    # Decoding 900 million pixels takes seconds and 900 MB.
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"image": "###"}, "#/image"),
        ({"image": "aGk"}, "#/image"),
        ({"image": 5}, "#/image"),
        ({"image": None}, "#/image"),
        ({"image": "é"}, "#/image"),
        ({}, "#/image"),
        ({"picture": "aGk="}, "#/picture"),
        ({"image": "aGk=", "a/b": 1}, "#/a~1b"),
        (["aGk="], "#"),
        ("aGk=", "#"),
    ],
)
def test_bad_json_around_a_picture(client: httpx.Client, body: object, pointer: str) -> None:
    assert problem(client.post("/reconstruct", json=body), 422)["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("body", [b"{", b"", b"\xff", b"[" * 100_000])
def test_json_that_is_none(client: httpx.Client, body: bytes) -> None:
    problem(client.post("/reconstruct", content=body, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x", 422),
        (b"nonsense", "multipart/form-data", 400),
        (b"nonsense", "multipart/form-data; boundary=x", 400),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 422),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nhi\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            422,
        ),
        (b"GIF89a", "image/gif", 415),
        (b"a=b", "application/x-www-form-urlencoded", 415),
        (b"", "", 415),
    ],
)
def test_bad_multipart_and_other_types(client: httpx.Client, body: bytes, content_type: str, status: int) -> None:
    problem(client.post("/reconstruct", content=body, headers={"content-type": content_type}), status)


# --- base64 as people send it, and bodies that are compressed


def _in_json(text: str) -> Upload:
    return Upload(json.dumps({"image": text}).encode(), is_json=True)


PLAIN = base64.b64encode(encode(rainbow())).decode()
SPELLINGS = {
    "line breaks": "\n".join(PLAIN[at : at + 76] for at in range(0, len(PLAIN), 76)),
    "line breaks of Windows": "\r\n".join(PLAIN[at : at + 64] for at in range(0, len(PLAIN), 64)) + "\r\n",
    "a trailing newline": PLAIN + "\n",
    "spaces around": f"  {PLAIN}\t",
    "safe for URLs": PLAIN.replace("+", "-").replace("/", "_"),
    "no padding": PLAIN.rstrip("="),
    "safe for URLs without padding": PLAIN.replace("+", "-").replace("/", "_").rstrip("="),
    "of a browser": f"data:image/png;base64,{PLAIN}",
    "of a loud browser": f"DATA:IMAGE/PNG;BASE64,{PLAIN}",
    "of a browser, with escapes": f"data:image/png;base64,{PLAIN.replace('+', '%2B').replace('=', '%3D')}",
    "of a browser, with parameters": f"data:image/png;name=a.png;base64,{PLAIN}",
    "of no type": f"data:;base64,{PLAIN}",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_base64_is_taken_in_every_usual_spelling(name: str) -> None:
    """D10: line breaks, a newline at the end, the URL-safe letters and DATA: were refused."""
    assert _in_json(SPELLINGS[name]).content() == encode(rainbow())


@pytest.mark.parametrize("text", ["a", "a=b", "====", "data:image/png,hello world!", "é", "\x00", "aaaaa!"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(UploadError, match="is not base64"):
        _in_json(text).content()


@pytest.mark.parametrize("path", ["/reconstruct", "/jobs"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP", "identity, gzip"])
def test_a_compressed_body_is_refused_as_such(client: httpx.Client, path: str, encoding: str) -> None:
    """D10: a gzip'ed body was "not JSON"."""
    body = gzip.compress(b"{}")
    headers = {"content-type": "application/json", "content-encoding": encoding}
    assert "compressed" in problem(client.post(path, content=body, headers=headers), 415)["detail"]


def test_a_compressed_body_without_a_header_is_refused_as_such(client: httpx.Client) -> None:
    """D10: likewise."""
    body = gzip.compress(b"{}")
    answer = client.post("/reconstruct", content=body, headers={"content-type": "application/json"})
    assert "compressed" in problem(answer, 415)["detail"]
    headers = {"content-type": "application/json", "content-encoding": "identity"}
    problem(client.post("/reconstruct", content=b"{", headers=headers), 400)
