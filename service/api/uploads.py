"""Reads an uploaded picture from multipart or JSON, and decodes it within limits."""

import base64
import binascii
import json
from collections.abc import Mapping
from io import BytesIO

from fastapi import Request
from PIL import Image, ImageOps, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from service.api.json_pointers import pointer_to
from service.errors import MalformedBodyError, MediaTypeError, UploadError

__all__ = ["REQUEST_BODY", "Upload", "decode", "read_upload"]

# Decoders that are plain code over bytes. PIL has others that start programs (EPS) or open further files.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary", "description": "the picture"}},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "additionalProperties": False,
                "properties": {
                    "image": {"type": "string", "contentEncoding": "base64", "description": "the picture, in base64"}
                },
            },
        },
    },
}
"""For a route's `openapi_extra`."""


class Upload:
    """A picture's bytes, and where they stood in the request.

    Args:
        data: the bytes as sent: of the file, or the whole JSON body.
        is_json: which of the two.
    """

    def __init__(self, data: bytes, *, is_json: bool) -> None:
        self._data = data
        self._is_json = is_json

    def error(self, message: str) -> UploadError:
        """An error that names the field which held the picture."""
        return UploadError(message, pointer="#/image") if self._is_json else UploadError(message, part="file")

    def content(self) -> bytes:
        """The picture's bytes.

        Raises:
            MalformedBodyError: the JSON around it is none.
            UploadError: the JSON holds no picture in base64.
        """
        return self._from_json() if self._is_json else self._data

    def _from_json(self) -> bytes:
        try:
            body = json.loads(self._data)
        except (ValueError, RecursionError) as error:
            raise MalformedBodyError(f"the body is not JSON: {error}") from error
        if not isinstance(body, Mapping):
            raise UploadError('the body must be an object: {"image": "<base64>"}', pointer="#")
        for name in body:
            if name != "image":
                raise UploadError("is not a known field", pointer=pointer_to([name]))
        if not isinstance(body.get("image"), str):
            raise self.error("is required, as a string in base64")
        text = body["image"]
        # What browsers make of a file: data:image/png;base64,...
        _, comma, rest = text.partition(",")
        try:
            return base64.b64decode(rest if comma and text.startswith("data:") else text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self.error(f"is not base64: {error}") from error


async def read_upload(request: Request) -> Upload:
    """Reads the body of a request.

    Raises:
        MediaTypeError: it is neither multipart nor JSON.
        MalformedBodyError: it is not what it says it is.
        UploadError: it holds no file.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        return Upload(await request.body(), is_json=True)
    if media_type != "multipart/form-data":
        raise MediaTypeError("send multipart/form-data with a part `file`, or application/json with a field `image`")
    try:
        form = await request.form(max_files=1, max_fields=10)
    except HTTPException as error:
        raise MalformedBodyError(f"the body is not multipart/form-data: {error.detail}") from error
    try:
        part = form.get("file")
        if not isinstance(part, UploadFile):
            raise UploadError("is required: a part `file` with a file name", part="file")
        return Upload(await part.read(), is_json=False)
    finally:
        await form.close()


def decode(upload: Upload, max_pixels: int) -> Image.Image:
    """Decodes a picture wholly, turned the way it is to be shown; one that is too large is refused by its header.

    Args:
        upload: as it came.
        max_pixels: most pixels of a picture that is decoded.

    Raises:
        MalformedBodyError: the JSON around it is none.
        UploadError: it is too large, damaged, truncated, or no picture at all.
    """
    content = upload.content()
    if not content:
        raise upload.error("is empty")
    try:
        image = Image.open(BytesIO(content), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise upload.error(f"has more than {max_pixels:,} pixels") from error
    except UnidentifiedImageError as error:
        raise upload.error(f"is not an image of a known format ({', '.join(_FORMATS)})") from error
    except Exception as error:
        raise upload.error("has a damaged header") from error
    width, height = image.size
    if width * height > max_pixels:
        raise upload.error(f"is {width} x {height} pixels, more than {max_pixels:,}")
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:
        # Decoders raise many kinds for damaged bytes: OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        raise upload.error(f"can't be decoded: {error}") from error
