"""Resource demand of a job, and whether the cluster could ever meet it."""

from dataclasses import dataclass

from jobs.directory.records import Phase, Progress
from jobs.interfaces import Capacity
from jobs.specs import AnySpec, ScalingConfig, TrainSpec, TuneSpec
from service.errors import FieldProblem

__all__ = ["Demand", "demand", "missing_workers", "problems"]


@dataclass(frozen=True)
class Demand:
    """Workers of one size."""

    workers: int
    cpus: float
    """For each worker."""
    gpus: float
    """For each worker."""


def demand(spec: AnySpec, capacity: Capacity | None = None) -> Demand:
    """The least that a job needs to start; given the cluster, what it will take of it.

    A search takes as many trials at once as there is room for.
    """
    scaling = _scaling(spec)
    workers = scaling.min_workers
    if capacity is not None:
        room = capacity.workers(scaling.cpus_per_worker, scaling.gpus_per_worker)
        if isinstance(spec, TuneSpec):
            workers *= max(1, min(spec.most_trials, room // workers))
        else:
            workers = max(workers, min(scaling.max_workers, room))
    return Demand(workers, scaling.cpus_per_worker, scaling.gpus_per_worker)


def problems(spec: AnySpec, capacity: Capacity) -> tuple[FieldProblem, ...]:
    """Why the cluster can never run a job; empty when it can."""
    scaling = _scaling(spec)
    at = "#/base/scaling" if isinstance(spec, TuneSpec) else "#/scaling"
    found = []
    largest_cpus = max((node.cpus for node in capacity.nodes), default=0)
    largest_gpus = max((node.gpus for node in capacity.nodes), default=0)
    if scaling.cpus_per_worker > largest_cpus:
        detail = f"asks for {scaling.cpus_per_worker:g} CPUs in one worker; the largest machine has {largest_cpus:g}"
        found.append(FieldProblem(f"{at}/cpus_per_worker", detail))
    if scaling.gpus_per_worker > largest_gpus:
        detail = f"asks for {scaling.gpus_per_worker:g} GPUs in one worker; the largest machine has {largest_gpus:g}"
        found.append(FieldProblem(f"{at}/gpus_per_worker", detail))
    room = capacity.workers(scaling.cpus_per_worker, scaling.gpus_per_worker)
    if not found and scaling.min_workers > room:
        field = "workers" if isinstance(scaling.workers, int) else "workers/min"
        detail = f"asks for {scaling.min_workers} workers; the cluster has room for {room} of this size"
        found.append(FieldProblem(f"{at}/{field}", detail))
    return tuple(found)


def missing_workers(spec: AnySpec, capacity: Capacity, progress: Progress | None) -> str | None:
    """What an attempt that gets no further waits for, in words; None: not for workers.

    Args:
        spec: of the job.
        capacity: what the cluster has now.
        progress: the attempt's last heartbeat.
    """
    scaling = _scaling(spec)
    room = capacity.workers(scaling.cpus_per_worker, scaling.gpus_per_worker)
    size = f"{scaling.cpus_per_worker:g} CPUs"
    if scaling.gpus_per_worker > 0:
        size += f" and {scaling.gpus_per_worker:g} GPUs"
    needed = scaling.min_workers
    if room < needed:
        workers = "worker" if needed == 1 else "workers"
        return f"{needed} {workers} of {size} each; the machines that are left have room for {room}"
    has_begun = progress is not None and progress.phase is not Phase.STARTING
    if has_begun or not isinstance(spec, TrainSpec | TuneSpec):
        return None
    return f"a place for {needed} workers of {size} each: the cluster is busy, or is still starting them"


def _scaling(spec: AnySpec) -> ScalingConfig:
    return spec.base.scaling if isinstance(spec, TuneSpec) else spec.scaling
