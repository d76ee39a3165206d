"""Admission control: which jobs may leave the queue."""

from collections import Counter

from jobs.interfaces import Capacity
from jobs.specs import job_spec
from service.db.models import JobRow
from service.scheduling.resources import Demand, demand, problems
from service.settings import ReconcilerSettings

__all__ = ["choose"]


def choose(placed: list[JobRow], queue: list[JobRow], capacity: Capacity, settings: ReconcilerSettings) -> list[JobRow]:
    """The jobs of the queue that may go to the cluster now.

    Strictly in order: a job that must wait for room holds up those behind it, so that a large one is not overtaken for
    ever. Two kinds are stepped over: a job whose owner has as many running as is allowed, and a job that the cluster
    could not run even when empty, since a machine of it is down.

    Args:
        placed: jobs that hold a place on the cluster.
        queue: jobs that wait, best first.
        capacity: what the cluster has.
        settings: the limits.
    """
    of_owner = Counter(job.owner for job in placed)
    room = _Room(capacity)
    for job in placed:
        room.take(demand(job_spec.validate_python(job.spec), capacity))
    chosen: list[JobRow] = []
    for job in queue:
        if len(placed) + len(chosen) >= settings.max_concurrent_jobs:
            break
        spec = job_spec.validate_python(job.spec)
        if of_owner[job.owner] >= settings.max_running_per_owner or problems(spec, capacity):
            continue
        if not room.has(demand(spec)):
            break
        room.take(demand(spec, capacity))
        of_owner[job.owner] += 1
        chosen.append(job)
    return chosen


class _Room:
    """What is free, counted over all machines together; the cluster itself places the workers."""

    def __init__(self, capacity: Capacity) -> None:
        self._cpus = capacity.cpus
        self._gpus = capacity.gpus

    def has(self, need: Demand) -> bool:
        return need.workers * need.cpus <= self._cpus and need.workers * need.gpus <= self._gpus

    def take(self, need: Demand) -> None:
        """Never below nothing: a search or an elastic job takes what is left."""
        self._cpus = max(0.0, self._cpus - need.workers * need.cpus)
        self._gpus = max(0.0, self._gpus - need.workers * need.gpus)
