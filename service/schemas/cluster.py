"""Wire models of the cluster's machines, and of what a machine must know and have to join it."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Self

from service.schemas.base import Schema

__all__ = ["JoinInformation", "Versions"]

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
    data_dir: str | None = None
    """Folder with the users' own data, which a machine must have as well; null: there is none."""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _ABSENT
