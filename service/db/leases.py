"""Leases on rows of the job database: several processes share it, and each row is worked on by one at a time."""

import secrets
import threading
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Update, and_, case, or_, select, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute

from service.clock import CLOCK_SKEW, is_over
from service.db.models import JobRow, LeaseRow
from service.db.queries import is_known
from service.db.store import Store
from service.job_state import ACTIVE, ENDED, Desired, State

__all__ = ["Leases"]

_Values = dict[InstrumentedAttribute[Any], object]


class Leases:
    """The leases of one process. A lease that is not renewed in time is free for others.

    Args:
        store: whose jobs.
        owner: names this process; no other may have the same name.
        longest_wait: seconds for which a job may be left alone; one that is to be left alone for longer is due, since
            the clock has been set back.
    """

    def __init__(self, store: Store, owner: str, longest_wait: float = 3600.0) -> None:
        self.owner = owner
        self._longest_wait = timedelta(seconds=longest_wait)
        self._database = store.database
        self._now = store.now
        self._lock = threading.Lock()
        self._held: set[tuple[str, str | None]] = set()
        """Leases in use: job and token."""

    def claim(self, seconds: float, limit: int) -> list[JobRow]:
        """Takes jobs that the reconciler should look at, and that nobody else is looking at.

        The rows carry a new lease token; `transition(leased=True)` and `update` write only while it is still theirs.
        """
        now = self._now()
        token = secrets.token_hex(8)
        resumed = and_(JobRow.state == State.PAUSED, JobRow.desired == Desired.RUN)
        not_clean = and_(JobRow.state.in_(ENDED), JobRow.cleaned_up.is_(False))
        to_do = and_(or_(JobRow.state.in_(ACTIVE | {State.RETRY_WAIT}), resumed, not_clean), is_known())
        due = _is_over(JobRow.not_before, now, self._longest_wait)
        free = _is_over(JobRow.lease_expires, now, timedelta(seconds=seconds))
        with self._database.read() as session:
            # Most rounds find nothing: they should not take turns with writers.
            if session.scalar(select(JobRow.id).where(to_do, due, free).limit(1)) is None:
                return []
        with self._database.write() as session:
            query = select(JobRow.id).where(to_do, due, free).order_by(JobRow.not_before.nulls_first(), JobRow.number)
            ids = list(session.scalars(query.limit(limit)))
            lease: _Values = {
                JobRow.lease_token: token,
                JobRow.lease_owner: self.owner,
                JobRow.lease_expires: now + timedelta(seconds=seconds),
            }
            session.execute(_update(JobRow.id.in_(ids), lease))
            claimed = list(session.scalars(select(JobRow).where(JobRow.id.in_(ids)).order_by(JobRow.number)))
            for job in claimed:
                if ahead := _times_ahead(job, now):
                    session.execute(_update(JobRow.id == job.id, ahead))
                    session.refresh(job)
        with self._lock:
            self._held |= {(job.id, job.lease_token) for job in claimed}
        return claimed

    def renew(self, seconds: float) -> None:
        """Prolongs the leases that are in use here and were not lost meanwhile."""
        with self._lock:
            held = list(self._held)
        if not held:
            return
        now = self._now()
        mine = and_(tuple_(JobRow.id, JobRow.lease_token).in_(held), JobRow.lease_expires >= now)
        with self._database.write() as session:
            session.execute(_update(mine, {JobRow.lease_expires: now + timedelta(seconds=seconds)}))

    def release(self, job: JobRow, look_again_in: float = 0.0) -> None:
        """Gives a lease back; a lost one is left alone. A later `not_before` of the row stays."""
        with self._lock:
            # First of all: when the database is away, the lease must run out rather than be renewed for ever.
            self._held.discard((job.id, job.lease_token))
        again = self._now() + timedelta(seconds=look_again_in)
        sooner = or_(JobRow.not_before.is_(None), JobRow.not_before < again)
        values: _Values = {
            JobRow.lease_token: None,
            JobRow.lease_owner: None,
            JobRow.lease_expires: None,
            JobRow.not_before: case((sooner, again), else_=JobRow.not_before),
        }
        with self._database.write() as session:
            session.execute(_update(and_(JobRow.id == job.id, JobRow.lease_token == job.lease_token), values))

    def hold(self, name: str, seconds: float) -> bool:
        """Takes or prolongs a named lease, for work that one process does for all. False: another has it."""
        now = self._now()
        with self._database.write() as session:
            row = session.get(LeaseRow, name)
            longest = timedelta(seconds=seconds) + CLOCK_SKEW
            if row is not None and row.owner != self.owner and not is_over(row.expires, now, longest):
                return False
            session.merge(LeaseRow(name=name, owner=self.owner, expires=now + timedelta(seconds=seconds)))
            return True


def _is_over(end: InstrumentedAttribute[datetime | None], now: datetime, longest: timedelta) -> ColumnElement[bool]:
    """Whether a wait has ended, or would last longer than any can; see `service.clock.is_over`."""
    return or_(end.is_(None), end <= now, end > now + longest + CLOCK_SKEW)


def _times_ahead(job: JobRow, now: datetime) -> _Values:
    """What was seen in the future: the clock was set back since. Waits that began then begin anew."""
    seen = {
        JobRow.state_since: job.state_since,
        JobRow.last_seen_at: job.last_seen_at,
        JobRow.last_progress_at: job.last_progress_at,
    }
    return {column: now for column, at in seen.items() if at is not None and at > now + CLOCK_SKEW}


def _update(where: ColumnElement[bool], values: _Values) -> Update:
    # No row is loaded in these sessions that would have to be kept in step.
    return update(JobRow).where(where).values(values).execution_options(synchronize_session=False)
