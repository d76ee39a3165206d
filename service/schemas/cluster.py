"""Wire models of the cluster's machines, and of what a machine must know and have to join it."""

import platform
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Self

from jobs.cluster.nodes import NodeState, ProcessRole
from service.schemas.base import Schema

__all__ = ["JoinInformation", "NodeList", "NodeView", "NodeWork", "Versions"]

_ABSENT = "not installed"


class Versions(Schema):
    """Versions that must be the same on every machine of a cluster."""

    seqae: str
    """Of this project: drivers and workers exchange its objects."""
    python: str
    """Of the interpreter, with its patch level: Ray compares it as well."""
    ray: str
    """Of Ray."""
    torch: str
    """Of torch, without its build (`+cpu`, `+cu128`): machines with and without GPUs may work together."""

    @classmethod
    def installed(cls) -> Self:
        """Those of this process's environment. Nothing is imported for it."""
        return cls(
            seqae=_version("seqae"),
            python=platform.python_version(),
            ray=_version("ray"),
            torch=_version("torch").partition("+")[0],
        )

    def differences(self, other: "Versions") -> dict[str, tuple[str, str]]:
        """This one's and the other's version, by name, of what is not the same."""
        mine, theirs = self.model_dump(), other.model_dump()
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}


class JoinInformation(Schema):
    """What a machine must know and have to join the cluster."""

    head_address: str
    """Where Ray's head listens for machines, as `host:port`."""
    versions: Versions
    """What every machine must have installed."""
    storage: str
    """Folder of everything that jobs keep; a machine must have it at the same path."""
    storage_marker: str
    """Content of the file `storage.id` in that folder: another folder of the same path has another."""
    bucket: str | None = None
    """Address of the object storage that has jobs' files (`SEQAE_STORAGE`); null: they are in the folder `storage`."""
    data_dir: str | None = None
    """Folder with the users' own data, which a machine must have as well; null: there is none."""


class NodeWork(Schema):
    """A process of a job on a machine."""

    job_id: str | None
    """The job; null: it is somebody else's, and not shown to whoever asks."""
    attempt: int | None
    """Of the job; null with the job."""
    role: ProcessRole
    """What it does for the job."""
    rank: int | None = None
    """Of a worker, counted from 0; null: it is none, or has not begun, or belongs to a search's trial."""


class NodeView(Schema):
    """A machine of the cluster."""

    id: str
    """The cluster's id of it; a machine that joins again gets another."""
    name: str
    """What it calls itself; a host name unless it was given another."""
    address: str
    """By which the other machines reach it."""
    is_head: bool
    """Whether it is the one that the others have joined."""
    state: NodeState
    """Whether it can be given work."""
    detail: str = ""
    """Why it is draining or dead, in the cluster's words; empty where it says nothing."""
    cpus: float
    """CPU cores that it has for jobs."""
    cpus_used: float
    """What jobs have been given of them."""
    gpus: float
    """GPUs that it has for jobs."""
    gpus_used: float
    """What jobs have been given of them."""
    memory_bytes: float
    """What the cluster may give away of its memory."""
    memory_used_bytes: float
    """What all its processes use now; 0: not known."""
    is_idle: bool
    """Whether it is alive and nothing of a job runs on it."""
    started_at: datetime | None = None
    """When it joined."""
    ended_at: datetime | None = None
    """When it died; null: it has not."""
    work: tuple[NodeWork, ...] = ()
    """What runs on it, by job, attempt and rank."""


class NodeList(Schema):
    """The machines of the cluster: the head first, then by name, and last those that died."""

    nodes: tuple[NodeView, ...]
    """At most 20 dead ones, those that died last."""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _ABSENT
