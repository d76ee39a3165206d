"""Choice of the ended jobs that retention removes: pure functions of what is there and of the limits.

What goes first is what is missed least: checkpoints beside the best one, then jobs that made no model, then jobs that
did, the longest ended first. A job whose version has an alias in the registry, such as the champion's, is never chosen.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

__all__ = ["Action", "EndedJob", "Limits", "Removal", "choose"]


@dataclass(frozen=True)
class EndedJob:
    """An ended job, as far as its removal depends on it."""

    id: str
    owner: str
    ended_at: datetime
    has_model: bool
    """It has a version in the registry."""
    bytes: int = 0
    """What its folder takes; 0 where no limit asks for that."""
    spare_bytes: int = 0
    """Of these, checkpoints beside the best one."""


@dataclass(frozen=True)
class Limits:
    """Limits on ended jobs; 0 stands for none."""

    days: float = 0
    """Since a job's end."""
    jobs: int = 0
    """How many are kept."""
    jobs_per_owner: int = 0
    """How many of one owner are kept."""
    bytes: int = 0
    """What their folders take."""
    bytes_per_owner: int = 0
    """What the folders of one owner's take."""

    @property
    def are_set(self) -> bool:
        """Whether there is any."""
        return self != Limits()

    @property
    def ask_for_sizes(self) -> bool:
        """Whether folders have to be measured."""
        return self.bytes > 0 or self.bytes_per_owner > 0


class Action(StrEnum):
    """What is removed of a job."""

    CHECKPOINTS = "checkpoints"
    """Checkpoints beside the best one; the job stays."""
    JOB = "job"
    """Its row and its folder; its events and its registered model stay."""


@dataclass(frozen=True)
class Removal:
    """Something to be removed."""

    action: Action
    job: EndedJob
    bytes: int
    """Room that this gives back; 0 where no limit asks for that."""
    why: str
    """The limit that it is over, in words."""


def choose(jobs: Collection[EndedJob], kept: Collection[str], limits: Limits, now: datetime) -> list[Removal]:
    """What is removed, in its order.

    Args:
        jobs: all that have ended and are cleaned up.
        kept: ids of those that stay, whatever the limits: they count, and are not chosen.
        limits: to be kept.
        now: the time.
    """
    chosen = _Choice(jobs, kept)
    if limits.days:
        before = now - timedelta(days=limits.days)
        for job in [job for job in chosen.candidates() if job.ended_at < before]:
            chosen.remove(job, f"ended more than {limits.days:g} days ago")
    for owner in sorted(chosen.owners):
        chosen.limit_number(limits.jobs_per_owner, "jobs of its owner", owner)
        chosen.limit_bytes(limits.bytes_per_owner, "bytes of its owner's jobs", owner)
    chosen.limit_number(limits.jobs, "jobs in all")
    chosen.limit_bytes(limits.bytes, "bytes of all jobs")
    return chosen.removals


class _Choice:
    """The jobs that are left while some are chosen."""

    def __init__(self, jobs: Iterable[EndedJob], kept: Collection[str]) -> None:
        self._left = {job.id: job for job in sorted(jobs, key=lambda job: (job.has_model, job.ended_at, job.id))}
        self._kept = kept
        self._thinned: dict[str, int] = {}
        """Bytes of the checkpoints that are chosen, by job."""
        self.removals: list[Removal] = []

    @property
    def owners(self) -> set[str]:
        """Whose jobs there are."""
        return {job.owner for job in self._left.values()}

    def candidates(self, owner: str | None = None) -> list[EndedJob]:
        """Those that may be removed, what is missed least first."""
        return [job for job in self._of(owner) if job.id not in self._kept]

    def remove(self, job: EndedJob, why: str) -> None:
        """Chooses a job."""
        del self._left[job.id]
        # The whole of it goes, so that its checkpoints need not go before.
        self.removals = [removal for removal in self.removals if removal.job.id != job.id]
        self.removals.append(Removal(Action.JOB, job, job.bytes, f"over the limit: {why}"))

    def limit_number(self, most: int, what: str, owner: str | None = None) -> None:
        """Chooses jobs until there are no more than a limit; 0: there is none."""
        if not most:
            return
        over = len(self._of(owner)) - most
        for job in self.candidates(owner)[: max(0, over)]:
            self.remove(job, f"{most} {what}")

    def limit_bytes(self, most: int, what: str, owner: str | None = None) -> None:
        """Chooses checkpoints, and then jobs, until what is left takes no more than a limit; 0: there is none."""
        if not most:
            return
        over = sum(self._bytes(job) for job in self._of(owner)) - most
        for job in self.candidates(owner):
            if over > 0 and job.spare_bytes and job.id not in self._thinned:
                self._thinned[job.id] = job.spare_bytes
                self.removals.append(
                    Removal(Action.CHECKPOINTS, job, job.spare_bytes, f"over the limit: {most} {what}")
                )
                over -= job.spare_bytes
        for job in self.candidates(owner):
            if over <= 0:
                return
            over -= self._bytes(job)
            self.remove(job, f"{most} {what}")

    def _bytes(self, job: EndedJob) -> int:
        """What is left of a job without the checkpoints that are chosen."""
        return job.bytes - self._thinned.get(job.id, 0)

    def _of(self, owner: str | None) -> list[EndedJob]:
        return [job for job in self._left.values() if owner is None or job.owner == owner]
