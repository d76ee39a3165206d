"""Requests after which a server has loaded and cached all that it keeps, so that its memory can be compared."""

import io

import httpx
from PIL import Image

from service.schemas.models import MediaType

__all__ = ["warm_up"]

_PATHS = ("/", "/docs", "/openapi.json", "/jobs", "/models", "/readyz", "/jobs/job_000000000000")


def warm_up(url: str) -> None:
    """Sends one request of each kind.

    Args:
        url: of the server.
    """
    buffer = io.BytesIO()
    Image.new("RGB", (900, 700), (9, 99, 199)).save(buffer, "PNG")
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for path in _PATHS:
            client.get(path)
        for _ in range(3):
            for media_type in MediaType:
                files = {"file": ("a.png", buffer.getvalue())}
                client.post("/reconstruct", files=files, headers={"accept": media_type}).raise_for_status()
