"""Wire models of the health checks."""

from typing import Literal

from service.schemas.base import Schema

__all__ = ["Health", "PartStatus", "Readiness"]


class Health(Schema):
    """The process runs."""

    status: Literal["ok"] = "ok"
    version: str


class PartStatus(Schema):
    """One part of the service."""

    ok: bool
    detail: str
    required: bool = True
    """A part that is not required does not count for being ready."""


class Readiness(Schema):
    """Whether jobs can be taken and run now."""

    ready: bool
    parts: dict[str, PartStatus]
