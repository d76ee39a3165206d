"""Wire models of the health checks."""

from typing import Literal

from service.schemas.base import Schema

__all__ = ["Health", "PartStatus", "Readiness", "Works"]


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
    """A part that is not required does not count for being ready: without it, this process still does a part of its
    work."""


class Works(Schema):
    """What the service does now, part by part."""

    accept_jobs: bool = False
    """New jobs are taken into the queue: needs the database and room on the disk."""
    run_jobs: bool = False
    """Jobs of the queue are started: needs the cluster and MLflow as well. What waits starts when they are back."""
    reconstruct: bool = False
    """Images are reconstructed: needs a model that is loaded, and nothing else."""


class Readiness(Schema):
    """Whether this process can do its own work now, and what of it."""

    ready: bool
    """Whether all required parts work."""
    works: Works = Works()
    """What of its work it does now."""
    parts: dict[str, PartStatus]
    """By name: database, disk, cluster, mlflow and model among them."""
