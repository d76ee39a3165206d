"""Reads an uploaded picture from multipart or JSON, and decodes it within limits."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from urllib.parse import unquote

import anyio.to_thread
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from seqae.config import ModelConfig
from service.api.json_pointers import pointer_to
from service.errors import MalformedBodyError, MediaTypeError, UploadError
from service.inference.decoder_pool import DecodedPicture, DecoderPool, RefusedPictureError

__all__ = ["REQUEST_BODY", "Upload", "decode", "read_upload"]

_DATA_URL = re.compile(r"data:[^,]*,", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_URL_SAFE = str.maketrans("-_", "+/")

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
            MediaTypeError: the JSON is compressed.
            UploadError: the JSON holds no picture in base64.
        """
        return self._from_json() if self._is_json else self._data

    def _from_json(self) -> bytes:
        if self._data.startswith(b"\x1f\x8b"):
            raise MediaTypeError("the body is compressed by gzip; send it as it is")
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
        try:
            return base64.b64decode(_plain_base64(body["image"]), validate=True)
        except (binascii.Error, ValueError) as error:
            raise self.error(f"is not base64: {error}") from error


def _plain_base64(text: str) -> str:
    """Base64 in its plain form: without line breaks or what browsers put before it, `+` and `/`, padded."""
    text = _SPACE.sub("", text)
    prefix = _DATA_URL.match(text[:1_000])  # data:image/png;base64,...
    if prefix is not None:
        text = unquote(text[prefix.end() :])
    text = text.translate(_URL_SAFE)
    return text if "=" in text else text + "=" * (-len(text) % 4)


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


async def decode(upload: Upload, pool: DecoderPool, model: ModelConfig) -> DecodedPicture:
    """Decodes a picture, turned the way it is to be shown, and brings it to a model's size.

    Args:
        upload: as it came.
        pool: decodes it, within limits.
        model: of the size that is asked for.

    Raises:
        MalformedBodyError: the JSON around it is none.
        MediaTypeError: the JSON around it is compressed.
        UploadError: it is too large, takes too long, is damaged, truncated, or no picture at all.
    """
    content = await anyio.to_thread.run_sync(upload.content)
    if not content:
        raise upload.error("is empty")
    try:
        return await pool.decode(content, model)
    except RefusedPictureError as error:
        raise upload.error(str(error)) from error
