"""Admission control: which jobs may leave the queue."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

from jobs.directory.stored_specs import parse_spec
from jobs.errors import SpecUnreadable
from jobs.interfaces import Capacity
from jobs.specs import AnySpec
from service.db.models import JobRow
from service.scheduling.resources import Demand, demand, problems
from service.settings import ReconcilerSettings

__all__ = ["choose"]


_UNKNOWN_DEMAND = Demand(workers=1, cpus=1, gpus=0)
"""What a job is taken to hold whose spec can't be read."""


def choose(
    placed: list[JobRow],
    queue: list[JobRow],
    capacity: Capacity,
    settings: ReconcilerSettings,
    on_unreadable: Callable[[JobRow, str], object] = lambda _row, _why: None,
) -> list[JobRow]:
    """The jobs of the queue that may go to the cluster now.

    By priority first. Within one, the owner is next who has the fewest jobs on the cluster, of these the one whose job
    waits longest; an owner's jobs keep their order. So an owner who fills the queue waits for themselves alone. A job
    that is next and must wait for room holds up those behind it, so that a large one is not overtaken by smaller ones
    of its owner, nor by those of owners who have more.

    Three kinds are stepped over: a job whose owner has as many running as is allowed, a job that the cluster could not
    run even when empty, since a machine of it is down, and a job whose spec can't be read.

    Args:
        placed: jobs that hold a place on the cluster.
        queue: jobs that wait, those of a higher priority first, and the older ones of an owner before the newer ones.
        capacity: what the cluster has.
        settings: the limits.
        on_unreadable: told of a job of the queue whose spec can't be read, and why.
    """
    of_owner = Counter(job.owner for job in placed)
    room = _Room(capacity)
    for job in placed:
        held = _read(job)
        room.take(demand(held, capacity) if not isinstance(held, str) else _UNKNOWN_DEMAND)
    chosen: list[JobRow] = []
    for job in _in_turn(queue, of_owner):
        if len(placed) + len(chosen) >= settings.max_concurrent_jobs:
            break
        spec = _read(job)
        if isinstance(spec, str):
            on_unreadable(job, spec)
            continue
        if of_owner[job.owner] >= settings.max_running_per_owner or problems(spec, capacity):
            continue
        if not room.has(demand(spec)):
            break
        room.take(demand(spec, capacity))
        of_owner[job.owner] += 1
        chosen.append(job)
    return chosen


def _in_turn(queue: list[JobRow], of_owner: Mapping[str, int]) -> Iterator[JobRow]:
    """The jobs of a queue in the order in which they are next.

    Args:
        queue: as `choose` gets it.
        of_owner: jobs of each owner on the cluster; looked at anew for each job, as it changes with those chosen.
    """
    for _, jobs in groupby(queue, key=lambda job: job.priority):
        waiting: dict[str, deque[JobRow]] = {}
        for job in jobs:
            waiting.setdefault(job.owner, deque()).append(job)
        while waiting:
            owner = min(waiting, key=lambda name: (of_owner.get(name, 0), waiting[name][0].number))
            yield waiting[owner].popleft()
            if not waiting[owner]:
                del waiting[owner]


def _read(job: JobRow) -> AnySpec | str:
    """A job's spec, or why it can't be read."""
    try:
        return parse_spec(job.spec, job.spec_version)
    except SpecUnreadable as error:
        return f"its spec can't be read by this release: {error}"


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
