"""Template of the Ray cluster that each RayJob gets: a RayCluster manifest, and the number of workers by demand."""

import copy
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.errors import SubmissionRefused
from jobs.interfaces import NodeCapacity, WorkerDemand
from seqae.errors import Error

__all__ = ["ClusterTemplate"]

_GPU = "nvidia.com/gpu"
_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate(("K", "M", "G", "T"), start=1)}


class _Resources(BaseModel):
    limits: dict[str, str | int | float] = {}


class _Container(BaseModel):
    resources: _Resources = _Resources()


class _PodSpec(BaseModel):
    containers: Annotated[list[_Container], Field(min_length=1)]


class _Pod(BaseModel):
    spec: _PodSpec


class _Group(BaseModel):
    name: str = Field(alias="groupName")
    most: int = Field(alias="maxReplicas", ge=1, le=100_000)
    template: _Pod


class _ClusterSpec(BaseModel):
    model_config = ConfigDict(extra="allow")

    groups: Annotated[list[_Group], Field(alias="workerGroupSpecs", min_length=1)]


class _Manifest(BaseModel):
    kind: Literal["RayCluster"]
    spec: _ClusterSpec


@dataclass(frozen=True)
class _Workers:
    """A group of workers: their name, their size, and how many there may be."""

    name: str
    most: int
    size: NodeCapacity

    def room(self, demand: WorkerDemand) -> int:
        """Workers of an attempt that fit into one pod."""
        shares = [(self.size.cpus, demand.cpus), (self.size.gpus, demand.gpus)]
        return int(min((have / need for have, need in shares if need > 0), default=1))


class ClusterTemplate:
    """Template of the Ray cluster of one attempt.

    Args:
        manifest: of a RayCluster, parsed.

    Raises:
        Error: it is none; the text names the field.
    """

    def __init__(self, manifest: Any) -> None:
        try:
            parsed = _Manifest.model_validate(manifest)
            self._groups = tuple(_workers(group) for group in parsed.spec.groups)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise Error(f"the template is no RayCluster with groups of workers: {where or 'all of it'}") from error
        self._spec = manifest["spec"]

    @classmethod
    def load(cls, path: Path) -> Self:
        """The template of a file in YAML. Raises: Error."""
        try:
            manifest = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            what = error.strerror if isinstance(error, OSError) else type(error).__name__
            raise Error(f"the template {path} can't be read: {what}") from error
        return cls(manifest)

    @property
    def nodes(self) -> tuple[NodeCapacity, ...]:
        """The most pods that an attempt's cluster may have, each as a machine."""
        return tuple(group.size for group in self._groups for _ in range(group.most))

    def cluster_spec(self, demand: WorkerDemand) -> dict[str, Any]:
        """`rayClusterSpec` with as many workers as an attempt needs, all in one group; the other groups are left out.

        Raises:
            SubmissionRefused: no group has room for them.
        """
        wanted = [group for group in self._groups if (group.size.gpus > 0) == (demand.gpus > 0)] or list(self._groups)
        for group in wanted:
            room = group.room(demand)
            if room and math.ceil(demand.workers / room) <= group.most:
                return self._with_workers(group.name, math.ceil(demand.workers / room))
        size = f"{demand.cpus:g} CPUs and {demand.gpus:g} GPUs"
        raise SubmissionRefused(f"no group of the cluster's template has room for {demand.workers} workers of {size}")

    def _with_workers(self, name: str, pods: int) -> dict[str, Any]:
        spec: dict[str, Any] = copy.deepcopy(self._spec)
        (group,) = [one for one in spec["workerGroupSpecs"] if one["groupName"] == name]
        spec["workerGroupSpecs"] = [{**group, "replicas": pods, "minReplicas": pods}]
        return spec


def _workers(group: _Group) -> _Workers:
    limits = group.template.spec.containers[0].resources.limits
    cpus, memory, gpus = (_quantity(group.name, limits.get(name, 0)) for name in ("cpu", "memory", _GPU))
    if cpus < 1e-3:
        raise Error(f"the template's group {group.name} has no limit of CPUs")
    return _Workers(group.name, group.most, NodeCapacity(cpus, gpus, memory))


def _quantity(group: str, value: str | float) -> float:
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([a-zA-Z]{0,2})", str(value))
    if found is None or found.group(2) not in _UNITS:
        raise Error(f"the template's group {group} has a limit that is no quantity")
    return float(found.group(1)) * _UNITS[found.group(2)]
