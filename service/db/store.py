"""Writes of the job database: each change of state is a compare-and-swap with its event in the same transaction."""

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from sqlalchemy import ColumnElement, CursorResult, and_, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session

from jobs.interfaces import submission_id
from jobs.telemetry.log_records import current_traceparent
from service.clock import CLOCK_SKEW, Clock, utc_now
from service.db.audit import record
from service.db.changes import AttemptChanges, JobChanges
from service.db.engine import Database
from service.db.models import AttemptRow, DeliveryRow, EventRow, JobRow
from service.db.queries import MOST_QUEUED, Queries, find_job, find_known, read_placed_and_queued
from service.errors import ConflictError, StaleRowError
from service.job_state import ENDED, AttemptOutcome, EventType, State, reason_for

__all__ = ["NewEvent", "Store", "new_job_id"]


def new_job_id() -> str:
    """A new job's id: `job_` and 12 characters, 48 random bits."""
    return f"job_{secrets.token_hex(6)}"


_Values = dict[InstrumentedAttribute[Any], object]
"""Columns that the store itself keeps, with their new values."""


@dataclass(frozen=True)
class NewEvent:
    """An event to be written."""

    type: EventType
    data: Mapping[str, Any]


class Store(Queries):
    """Jobs, attempts and events.

    Rows that methods return are copies: changing one changes nothing. All methods raise StoreUnavailableError when the
    database does not answer.

    Args:
        url: SQLAlchemy URL.
        webhook_urls: receivers of transitions; a delivery for each is written with the transition itself.
        clock: tells the time, in UTC.
    """

    def __init__(self, url: str, *, webhook_urls: Sequence[str] = (), clock: Clock = utc_now) -> None:
        super().__init__(Database(url), clock)
        self._webhook_urls = tuple(webhook_urls)

    def migrate(self) -> None:
        """Brings the tables to the newest version. Several processes may do so at once; one does the work."""
        self.database.migrate()

    def close(self) -> None:
        """Closes the connections to the database."""
        self.database.close()

    def add(self, job: JobRow, check: Callable[[int, int], None] | None = None) -> tuple[JobRow, bool]:
        """Adds a job in QUEUED, or finds the one that the same owner sent with the same idempotency key.

        Args:
            job: all but its times and number.
            check: called with how many jobs of the owner and of all have not ended; raises to refuse the job.

        Returns:
            The job, and whether it is new.

        Raises:
            ConflictError: the key was used for another body.
        """
        now = self.now()
        with self.database.write() as session:
            known = find_known(session, job)
            if known is not None:
                return known, False
            if check is not None:
                live = JobRow.state.not_in(ENDED)
                query_all = select(func.count()).select_from(JobRow).where(live)
                of_owner = session.scalar(query_all.where(JobRow.owner == job.owner)) or 0
                check(of_owner, session.scalar(query_all) or 0)
            job.created_at = job.queued_at = job.updated_at = job.state_since = now
            session.add(job)
            session.flush()
            self._write_event(session, job, None, State.QUEUED, "submitted")
            return job, True

    def transition(
        self,
        job: JobRow,
        to: State,
        reason: str | None = None,
        *,
        leased: bool = False,
        outcome: AttemptOutcome | None = None,
        **changes: Unpack[JobChanges],
    ) -> JobRow:
        """Moves a job from the state and version it was read in to another state, with the event of it.

        Args:
            job: as it was read.
            to: the new state.
            reason: why; None: the usual reason.
            leased: only as long as the lease that the row was read with is held.
            outcome: closes the newest attempt with this outcome.
            changes: other columns.

        Raises:
            StaleRowError: somebody else changed the row meanwhile; nothing was written.
            KeyError: the table of states does not allow this step; nothing was written.
        """
        with self.database.write() as session:
            return self._move(session, job, to, reason, leased=leased, outcome=outcome, **changes)

    def set_desired(self, job: JobRow, **changes: Unpack[JobChanges]) -> JobRow:
        """Changes what a person decides (desired state, priority), from the version that was read.

        Raises:
            StaleRowError: somebody else changed the row meanwhile; nothing was written.
            ConflictError: its state is another release's.
        """
        with self.database.write() as session:
            same = and_(JobRow.id == job.id, JobRow.version == job.version)
            if job.state == State.UNKNOWN:
                raise ConflictError(f"job {job.id} is in a state of another release, and is left alone")
            values: _Values = {JobRow.version: job.version + 1, JobRow.updated_at: self.now()}
            defaults: JobChanges = {"not_before": None}
            _update_one(session, same, values, {**defaults, **changes})
            record(session, self.now(), {"job": job.id, **{name: str(value) for name, value in changes.items()}})
            return find_job(session, job.id)

    def update(self, job: JobRow, events: Iterable[NewEvent] = (), **changes: Unpack[JobChanges]) -> JobRow:
        """Writes columns other than the state, and events, as long as the lease is held.

        Raises:
            StaleRowError: the lease was lost.
        """
        now = self.now()
        with self.database.write() as session:
            held = and_(JobRow.id == job.id, JobRow.version == job.version, JobRow.lease_token == job.lease_token)
            _update_one(session, held, {JobRow.updated_at: now}, changes)
            for event in events:
                session.add(EventRow(job_id=job.id, at=now, type=event.type, data=dict(event.data)))
                session.flush()
            return find_job(session, job.id)

    def add_event(self, job_id: str, event: NewEvent) -> None:
        """Writes an event that no change of the job's row goes with."""
        with self.database.write() as session:
            session.add(EventRow(job_id=job_id, at=self.now(), type=event.type, data=dict(event.data)))

    def update_attempt(self, job: JobRow, **changes: Unpack[AttemptChanges]) -> None:
        """Changes the row of the newest attempt, as long as the lease is held. Raises: StaleRowError."""
        with self.database.write() as session:
            held = and_(JobRow.id == job.id, JobRow.version == job.version, JobRow.lease_token == job.lease_token)
            if session.scalar(select(func.count()).select_from(JobRow).where(held)) != 1:
                raise StaleRowError(f"job {job.id} has changed")
            _update_attempt(session, job, changes)

    def admit(
        self,
        choose: Callable[[list[JobRow], list[JobRow]], list[JobRow]],
        most: int = MOST_QUEUED,
        on_broken: Callable[[JobRow, str], object] = lambda _row, _why: None,
    ) -> list[JobRow]:
        """Lets jobs out of the queue, and writes their next attempts before any cluster is asked.

        Args:
            choose: gets the jobs that hold a place on the cluster and the head of the queue; returns those of the
                queue that may go. No other process admits meanwhile.
            most: length of the head of the queue: by priority, then the first job of each owner, the second of each,
                and so on, so that no owner's jobs keep those of another out of it. Jobs of another release are not.
            on_broken: told of a job whose rows contradict each other, and why; the others are admitted.
        """
        with self.database.write() as session:
            placed, queue = read_placed_and_queued(session, most)
            if not queue:
                return []
            admitted = []
            for job in choose(placed, queue):
                try:
                    with session.begin_nested():
                        admitted.append(self._admit(session, job))
                except IntegrityError:
                    on_broken(job, f"its attempt {job.attempt + 1} exists already")
            return admitted

    def _admit(self, session: Session, job: JobRow) -> JobRow:
        number = job.attempt + 1
        session.add(
            AttemptRow(job_id=job.id, number=number, submission_id=submission_id(job.id, number), created_at=self.now())
        )
        return self._move(
            session,
            job,
            State.SUBMITTING,
            attempt=number,
            last_seen_at=None,
            last_progress_at=None,
            event_cursor=None,
        )

    def correct_queue_times(self) -> None:
        """Jobs that were queued in the future were queued before the clock was set back: their wait begins anew."""
        now = self.now()
        ahead = and_(JobRow.state == State.QUEUED, JobRow.queued_at > now + CLOCK_SKEW)
        with self.database.read() as session:
            if session.scalar(select(JobRow.id).where(ahead).limit(1)) is None:
                return
        with self.database.write() as session:
            changed = update(JobRow).where(ahead).values({JobRow.queued_at: now})
            session.execute(changed.execution_options(synchronize_session=False))

    def request_deletion(self, job: JobRow) -> JobRow:
        """Writes down that an ended job is to be removed as soon as it is cleaned up.

        Raises:
            StaleRowError: somebody else changed the row meanwhile; nothing was written.
        """
        with self.database.write() as session:
            same = and_(JobRow.id == job.id, JobRow.state.in_(ENDED), JobRow.cleaned_up.is_(False))
            wanted: JobChanges = {"delete_requested": True, "not_before": None}
            _update_one(session, same, {JobRow.updated_at: self.now()}, wanted)
            record(session, self.now(), {"job": job.id, "delete_requested": True})
            return find_job(session, job.id)

    def was_deleted(self, job_id: str) -> bool:
        """Whether there was such a job, and it has been deleted."""
        deleted = and_(EventRow.job_id == job_id, EventRow.type == EventType.DELETED)
        with self.database.read() as session:
            return session.scalar(select(EventRow.id).where(deleted).limit(1)) is not None

    def delete(self, job: JobRow) -> None:
        """Removes an ended job and its attempts; its events stay, with one more that says so.

        Raises:
            StaleRowError: somebody else changed the row meanwhile; nothing was written.
        """
        with self.database.write() as session:
            same = and_(JobRow.id == job.id, JobRow.version == job.version, JobRow.state.in_(ENDED))
            if _affected(session.execute(delete(JobRow).where(same))) != 1:
                raise StaleRowError(f"job {job.id} has changed")
            session.execute(delete(AttemptRow).where(AttemptRow.job_id == job.id))
            session.add(EventRow(job_id=job.id, at=self.now(), type=EventType.DELETED, data={"state": job.state.value}))
            record(session, self.now(), {"job": job.id, "deleted": True})

    # --- inside a transaction

    def _move(
        self,
        session: Session,
        job: JobRow,
        to: State,
        reason: str | None = None,
        *,
        leased: bool = False,
        outcome: AttemptOutcome | None = None,
        **changes: Unpack[JobChanges],
    ) -> JobRow:
        now = self.now()
        before = job.state
        usual = reason_for(before, to)
        same = and_(JobRow.id == job.id, JobRow.state == before, JobRow.version == job.version)
        if leased:
            same = and_(same, JobRow.lease_token == job.lease_token)
        values: _Values = {
            JobRow.state: to,
            JobRow.version: job.version + 1,
            JobRow.updated_at: now,
            JobRow.state_since: now,
        }
        if to.is_terminal:
            # Without an attempt there is nothing to clean up.
            values |= {JobRow.finished_at: now, JobRow.cleaned_up: job.attempt == 0}
        defaults: JobChanges = {"not_before": None, "waiting": None}
        _update_one(session, same, values, {**defaults, **changes})
        moved = find_job(session, job.id)
        if outcome is not None:
            ended: AttemptChanges = {"outcome": outcome, "ended_at": now}
            error: AttemptChanges = {"error_class": moved.error_class, "error_message": moved.error_message}
            _update_attempt(session, moved, {**ended, **error})
        self._write_event(session, moved, before, to, reason or usual)
        return moved

    def _write_event(self, session: Session, job: JobRow, before: State | None, to: State, reason: str) -> None:
        data: dict[str, Any] = {"from": before, "to": to.value, "reason": reason, "attempt": job.attempt}
        if before is None and (traceparent := current_traceparent.get()) is not None:
            # What the job's driver is to be traced below.
            data["traceparent"] = traceparent
        if to in (State.FAILED, State.LOST) and job.error_class is not None:
            data["error"] = {"class": job.error_class, "message": job.error_message}
        now = self.now()
        row = EventRow(job_id=job.id, at=now, type=EventType.TRANSITION, data=data)
        session.add(row)
        session.flush()
        record(session, now, {"job": job.id, "from": before, "to": to.value})
        about = {"id": job.id, "name": job.name, "kind": job.kind, "owner": job.owner}
        body = {"id": row.id, "type": EventType.TRANSITION, "at": now.isoformat(), "job": about, "data": data}
        body |= _chat_message(job, to, reason)
        for url in self._webhook_urls:
            session.add(DeliveryRow(event_id=row.id, url=url, body=json.dumps(body), next_at=now))


def _chat_message(job: JobRow, to: State, reason: str) -> dict[str, Any]:
    """What Slack (`text`) and Discord (`content`) show of a transition; a job's name calls nobody there."""
    text = f"{job.name[:200]} ({job.id}) is {to.value}: {reason[:500]}"
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": escaped, "content": text, "allowed_mentions": {"parse": list[str]()}}


def _affected(result: Any) -> int:
    if not isinstance(result, CursorResult):
        raise TypeError(f"not the result of a change: {result!r}")
    return result.rowcount


def _update_attempt(session: Session, job: JobRow, changes: AttemptChanges) -> None:
    newest = and_(AttemptRow.job_id == job.id, AttemptRow.number == job.attempt, AttemptRow.outcome.is_(None))
    session.execute(update(AttemptRow).where(newest).values(**changes))


def _update_one(session: Session, where: ColumnElement[bool], values: _Values, changes: JobChanges) -> None:
    statement = update(JobRow).where(where).values(values).values(**changes)
    statement = statement.execution_options(synchronize_session=False)
    if _affected(session.execute(statement)) != 1:
        raise StaleRowError("the job has changed since it was read")
