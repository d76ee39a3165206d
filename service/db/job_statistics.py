"""Aggregates over the jobs of the database, for metrics: a few rows, however many jobs there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from service.db.engine import Database
from service.db.models import JobRow
from service.job_state import ENDED, State

__all__ = ["MOST_OWNERS", "OTHER_OWNERS", "JobStatistics", "job_statistics"]

MOST_OWNERS = 20
"""Owners that are counted one by one: those with most live jobs. The rest is counted together."""

OTHER_OWNERS = "(others)"
"""Stands for all further owners."""

_MOST_RUNNING = 1_000
"""Running jobs whose speed is added up."""


@dataclass(frozen=True)
class JobStatistics:
    """Numbers of jobs at one moment."""

    by_state: Mapping[State, int]
    """Jobs in each state, ended ones too; every state of this release has its number."""
    by_owner: Mapping[tuple[str, State], int]
    """Jobs that have not ended, by owner and state; further owners together under `OTHER_OWNERS`."""
    queued_since: Mapping[str, datetime]
    """By owner of those, since when the job waits that has waited longest in the queue."""
    oldest_queued: datetime | None
    """Since when the job waits that has waited longest in the queue; None: the queue is empty."""
    images_per_second: float
    """Of all running jobs together, by their newest heartbeats."""


def job_statistics(database: Database) -> JobStatistics:
    """Counts the jobs, in one read transaction.

    Raises:
        StoreUnavailableError: the database does not answer.
    """
    live = JobRow.state.not_in(ENDED)
    number = func.count()
    by_state = dict.fromkeys(State, 0)
    by_owner: dict[tuple[str, State], int] = {}
    with database.read() as session:
        for state, jobs in session.execute(select(JobRow.state, number).group_by(JobRow.state)):
            by_state[state] += int(jobs)
        ranked = select(JobRow.owner).where(live).group_by(JobRow.owner).order_by(number.desc(), JobRow.owner)
        owners = list(session.scalars(ranked.limit(MOST_OWNERS)))
        counted = select(JobRow.owner, JobRow.state, number).where(live, JobRow.owner.in_(owners))
        for owner, state, jobs in session.execute(counted.group_by(JobRow.owner, JobRow.state)):
            by_owner[owner, state] = by_owner.get((owner, state), 0) + int(jobs)
        waiting = select(JobRow.owner, func.min(JobRow.queued_at)).where(
            JobRow.state == State.QUEUED, JobRow.owner.in_(owners)
        )
        queued_since = dict(session.execute(waiting.group_by(JobRow.owner)).all())
        oldest = session.scalar(select(func.min(JobRow.queued_at)).where(JobRow.state == State.QUEUED))
        running = select(JobRow.progress).where(JobRow.state == State.RUNNING).limit(_MOST_RUNNING)
        speeds = [progress.images_per_second for progress in session.scalars(running) if progress is not None]
    for state in State:
        rest = by_state[state] - sum(jobs for (_, of), jobs in by_owner.items() if of is state)
        if rest > 0 and not state.is_terminal:
            by_owner[OTHER_OWNERS, state] = by_owner.get((OTHER_OWNERS, state), 0) + rest
    return JobStatistics(by_state, by_owner, queued_since, oldest, sum(speed for speed in speeds if speed is not None))
