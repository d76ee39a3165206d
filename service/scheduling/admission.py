"""Admission control: which jobs may leave the queue, what the others wait for, and who makes room for whom."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby

from jobs.directory.stored_specs import parse_spec
from jobs.errors import SpecUnreadable
from jobs.interfaces import Capacity
from jobs.specs import AnySpec
from service.db.models import JobRow
from service.job_state import Desired, State
from service.scheduling.resources import Demand, demand, problems
from service.settings import ReconcilerSettings

__all__ = ["Place", "Plan", "Preemption", "plan"]


_UNKNOWN_DEMAND = Demand(workers=1, cpus=1, gpus=0)
"""What a job is taken to hold whose spec can't be read."""

_LEAVING = frozenset({State.PAUSING, State.CANCELLING, State.LOST})
"""States of jobs that will soon hold no place."""


@dataclass(frozen=True)
class Place:
    """Place of a job that stays in the queue."""

    position: int
    """From 1, among those that wait."""
    missing: str
    """What it waits for, in words."""
    starts_in: float | None
    """A guess of the seconds until its turn, by what the running jobs say they still need; None: nothing to go by."""


@dataclass(frozen=True)
class Preemption:
    """A job that makes room for another one of higher priority: with a checkpoint, back into the queue."""

    job: JobRow
    by: JobRow


@dataclass(frozen=True)
class Plan:
    """What is to be done with the queue now."""

    admitted: list[JobRow] = field(default_factory=list)
    """In their order."""
    places: dict[str, Place] = field(default_factory=dict)
    """Of those that stay, by id."""
    preemptions: list[Preemption] = field(default_factory=list)


def plan(
    placed: list[JobRow],
    queue: list[JobRow],
    capacity: Capacity,
    settings: ReconcilerSettings,
    now: datetime,
    on_unreadable: Callable[[JobRow, str], object] = lambda _row, _why: None,
) -> Plan:
    """Which jobs of the queue may go to the cluster now, what the others wait for, and which jobs make room.

    By priority first. Within one, the owner is next who has the fewest jobs on the cluster, of these the one whose job
    waits longest; an owner's jobs keep their order. So an owner who fills the queue waits for themselves alone.

    A job that must wait for room may be passed by those behind it that have room now, until it has waited for
    `settings.backfill_for`; from then on nothing passes it, so that a large one does not wait for ever. Nor does
    anything pass a job for which others make room. Three kinds are always stepped over: a job whose owner has as many
    running as is allowed, a job that the cluster could not run even when empty, since a machine of it is down, and a
    job whose spec can't be read.

    Args:
        placed: jobs that hold a place on the cluster.
        queue: jobs that wait, those of a higher priority first, and the older ones of an owner before the newer ones.
        capacity: what the cluster has.
        settings: the limits.
        now: the time.
        on_unreadable: told of a job of the queue whose spec can't be read, and why.
    """
    found = Plan()
    queue_of = _Queue(placed, capacity, settings, found)
    for job in _in_turn(queue, queue_of.of_owner):
        spec = _read(job)
        if isinstance(spec, str):
            on_unreadable(job, spec)
        else:
            queue_of.look_at(job, spec, now)
    return found


class _Queue:
    """Goes through the queue, best first, and writes a plan.

    Args:
        placed: jobs that hold a place on the cluster.
        capacity: what the cluster has.
        settings: the limits.
        found: the plan.
    """

    def __init__(self, placed: list[JobRow], capacity: Capacity, settings: ReconcilerSettings, found: Plan) -> None:
        self._placed, self._capacity, self._settings, self._found = placed, capacity, settings, found
        self._held = _Held(placed, capacity)
        self.of_owner = Counter(job.owner for job in placed)
        """Jobs of each owner on the cluster, those admitted so far included."""
        self._ahead: list[Demand] = []
        """Of the jobs that stay, so far."""
        self._blocked: JobRow | None = None
        """The first that waits for room."""
        self._is_closed = False
        """Whether nothing may pass it."""

    def look_at(self, job: JobRow, spec: AnySpec, now: datetime) -> None:
        """Decides on the next job."""
        need = demand(spec)
        missing = self._missing_turn(job, spec)
        if missing is None and not self._held.has_room(need):
            missing = self._held.shortage(need)
            if self._blocked is None:
                self._block(job, need, now)
        if missing is None:
            self._held.take(demand(spec, self._capacity))
            self.of_owner[job.owner] += 1
            self._found.admitted.append(job)
        else:
            self._ahead.append(need)
            starts_in = self._held.seconds_until_room(self._ahead)
            self._found.places[job.id] = Place(len(self._ahead), missing, starts_in)

    def _missing_turn(self, job: JobRow, spec: AnySpec) -> str | None:
        """Why a job may not go even where there is room; None: it may."""
        settings = self._settings
        if len(self._placed) + len(self._found.admitted) >= settings.max_concurrent_jobs:
            return f"its turn: {settings.max_concurrent_jobs} jobs run, as many as may at once"
        if self.of_owner[job.owner] >= settings.max_running_per_owner:
            return f"its turn: {settings.max_running_per_owner} jobs of its owner run, as many as may at once"
        if unfit := problems(spec, self._capacity):
            return f"a machine: it {unfit[0].detail}"
        if self._is_closed and self._blocked is not None:
            return f"its turn: job {self._blocked.id} before it waits for room, and may not be passed any more"
        return None

    def _block(self, job: JobRow, need: Demand, now: datetime) -> None:
        """Decides what may pass the first job that waits for room, and who makes room for it."""
        self._blocked = job
        victims = _victims(job, need, self._placed, self._held) if self._settings.preemption else []
        self._found.preemptions.extend(Preemption(victim, job) for victim in victims)
        is_under_way = bool(victims) or self._held.will_have_room(need, _leaving(self._placed))
        waited = now - job.queued_at
        self._is_closed = is_under_way or waited >= timedelta(seconds=self._settings.backfill_for)


def _in_turn(queue: list[JobRow], of_owner: Mapping[str, int]) -> Iterator[JobRow]:
    """The jobs of a queue in the order in which they are next.

    Args:
        queue: as `plan` gets it.
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


def _leaving(placed: Iterable[JobRow]) -> list[JobRow]:
    return [job for job in placed if job.state in _LEAVING]


def _victims(job: JobRow, need: Demand, placed: list[JobRow], held: "_Held") -> list[JobRow]:
    """The jobs of lower priority that must leave for a job to have room, the lowest and newest first.

    None where those that are leaving already suffice, or where all of them would not.
    """
    leaving = _leaving(placed)
    if held.will_have_room(need, leaving):
        return []
    lower = [
        one
        for one in placed
        if one.state is State.RUNNING and one.desired is Desired.RUN and one.priority < job.priority
    ]
    chosen: list[JobRow] = []
    for one in sorted(lower, key=lambda one: (one.priority, -one.number)):
        chosen.append(one)
        if held.will_have_room(need, [*leaving, *chosen]):
            return chosen
    return []


class _Held:
    """What is held and free, counted over all machines together; the cluster itself places the workers.

    Args:
        placed: jobs that hold a place.
        capacity: what the cluster has.
    """

    def __init__(self, placed: list[JobRow], capacity: Capacity) -> None:
        self._capacity = capacity
        self._free_cpus, self._free_gpus = capacity.cpus, capacity.gpus
        self._of: dict[str, Demand] = {}
        self._ends: list[tuple[float, Demand]] = []
        """Seconds until running jobs end, as they say, and what they hold."""
        for job in placed:
            spec = _read(job)
            self._of[job.id] = demand(spec, capacity) if not isinstance(spec, str) else _UNKNOWN_DEMAND
            self.take(self._of[job.id])
            if job.progress is not None and job.progress.eta_seconds is not None:
                self._ends.append((job.progress.eta_seconds, self._of[job.id]))
        self._ends.sort(key=lambda end: end[0])

    def has_room(self, need: Demand) -> bool:
        """Whether so much is free."""
        return need.workers * need.cpus <= self._free_cpus and need.workers * need.gpus <= self._free_gpus

    def will_have_room(self, need: Demand, leaving: Iterable[JobRow]) -> bool:
        """Whether so much is free once some of the jobs have left."""
        left = [self._of[job.id] for job in leaving]
        cpus = self._free_cpus + sum(one.workers * one.cpus for one in left)
        gpus = self._free_gpus + sum(one.workers * one.gpus for one in left)
        # What a search or an elastic job holds is a guess: never count on more than there is.
        cpus, gpus = min(cpus, self._capacity.cpus), min(gpus, self._capacity.gpus)
        return bool(left) and need.workers * need.cpus <= cpus and need.workers * need.gpus <= gpus

    def take(self, need: Demand) -> None:
        """Never below nothing: a search or an elastic job takes what is left."""
        self._free_cpus = max(0.0, self._free_cpus - need.workers * need.cpus)
        self._free_gpus = max(0.0, self._free_gpus - need.workers * need.gpus)

    def shortage(self, need: Demand) -> str:
        """What is missing for a job to start, in words."""
        parts = [f"{need.workers * need.cpus:g} CPUs, of which {self._free_cpus:g} are free"]
        if need.gpus:
            parts.append(f"{need.workers * need.gpus:g} GPUs, of which {self._free_gpus:g} are free")
        return f"{need.workers} {'worker' if need.workers == 1 else 'workers'} with {' and '.join(parts)}"

    def seconds_until_room(self, ahead: list[Demand]) -> float | None:
        """When so much will be free together, if the running jobs end when they say; None: they don't say enough."""
        cpus = sum(need.workers * need.cpus for need in ahead)
        gpus = sum(need.workers * need.gpus for need in ahead)
        free_cpus, free_gpus = self._free_cpus, self._free_gpus
        for seconds, freed in self._ends:
            free_cpus += freed.workers * freed.cpus
            free_gpus += freed.workers * freed.gpus
            if cpus <= free_cpus and gpus <= free_gpus:
                return seconds
        return None
