"""Wire models of the health checks."""

from typing import Literal

from service.schemas.base import Schema

__all__ = ["Health", "PartStatus", "Readiness"]


class Health(Schema):
    """The process runs."""

    status: Literal["ok"] = "ok"
    """Always ok: what does not run does not answer."""
    version: str
    """Of the service."""


class PartStatus(Schema):
    """One part of the service."""

    ok: bool
    """Whether it works now."""
    detail: str
    """What it has, or what is wrong with it."""
    required: bool = True
    """A part that is not required does not count for being ready."""


class Readiness(Schema):
    """Whether jobs can be taken and run now."""

    ready: bool
    """Whether all required parts work."""
    parts: dict[str, PartStatus]
    """By name: database, cluster, mlflow and model among them."""
