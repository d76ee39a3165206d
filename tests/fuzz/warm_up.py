"""Requests after which a server has loaded and cached all that it keeps, so that its memory can be compared."""

import io

import httpx
from PIL import Image

from service.schemas.models import MediaType

__all__ = ["warm_up"]

_PATHS = ("/", "/docs", "/openapi.json", "/jobs", "/models", "/readyz", "/jobs/job_000000000000")
_SIZES = ((900, 700), (2000, 1500))
"""Of pictures for both decoders: the quick one, and that for what is more work."""


def warm_up(url: str) -> None:
    """Sends one request of each kind.

    Args:
        url: of the server.
    """
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for path in _PATHS:
            client.get(path)
        for size in _SIZES:
            for media_type in MediaType:
                files = {"file": ("a.png", _picture(size))}
                client.post("/reconstruct", files=files, headers={"accept": media_type}).raise_for_status()


def _picture(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (9, 99, 199)).save(buffer, "PNG")
    return buffer.getvalue()
