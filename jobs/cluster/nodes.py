"""Machines of the cluster and what runs on them, as the control plane sees them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

__all__ = ["ClusterNode", "NodeProcess", "NodeResources", "NodeState", "ProcessRole"]


class NodeState(StrEnum):
    """Whether a machine can be given work."""

    ALIVE = "alive"
    DRAINING = "draining"
    """It gets no new work, and leaves when what runs on it has ended, or its time is over."""
    DEAD = "dead"


class ProcessRole(StrEnum):
    """What a process does for its job."""

    DRIVER = "driver"
    """Starts the workers, keeps the heartbeat and writes the result."""
    WORKER = "worker"
    """Trains."""
    TRIAL_DRIVER = "trial driver"
    """Does for a search's trial what the driver does for a job."""


@dataclass(frozen=True)
class NodeProcess:
    """A process of an attempt on a machine."""

    submission_id: str
    """Names the attempt, see `jobs.interfaces.submission_id`."""
    role: ProcessRole
    process_id: str
    """The cluster's id of it; `jobs.directory.placements` says which rank has which."""


@dataclass(frozen=True)
class NodeResources:
    """What a machine has, or what of it is used."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_bytes: float = 0.0


@dataclass(frozen=True)
class ClusterNode:
    """A machine of the cluster."""

    id: str
    name: str
    address: str
    is_head: bool
    state: NodeState
    capacity: NodeResources
    """What it has for jobs, used or not. Its memory is what the cluster may give away, not what is physically there."""
    used: NodeResources
    """What jobs have been given of that. Its memory is what all processes of the machine use now."""
    detail: str = ""
    """Why it is draining or dead, in the cluster's words; empty where it says nothing."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    processes: tuple[NodeProcess, ...] = ()
