"""Queries of the job database that change nothing."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Iterator
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import Session, load_only

from jobs.directory.stored_specs import SPEC_VERSION, parse_spec
from jobs.errors import SpecUnreadable
from service.clock import Clock
from service.db.engine import Database
from service.db.models import AttemptRow, EventRow, JobRow
from service.errors import ConflictError, CursorError, JobNotFoundError, StaleRowError
from service.job_state import ACTIVE, ENDED, Desired, EventType, State

__all__ = ["MOST_QUEUED", "Queries", "find_job", "find_known", "is_known", "read_placed_and_queued"]

MOST_QUEUED = 200
"""Length of the head of the queue that is looked at."""


_SPECS_AT_ONCE = 500


class Queries:
    """Reads jobs, attempts and events. Rows are copies: changing one changes nothing.

    Args:
        database: where the rows are.
        clock: tells the time, in UTC.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.now = clock

    def job(self, job_id: str) -> JobRow:
        """Raises: JobNotFoundError."""
        with self.database.read() as session:
            return find_job(session, job_id)

    def owner_of(self, job_id: str) -> str | None:
        """Whose a job is; None where there is no such job."""
        if "\0" in job_id:
            return None
        with self.database.read() as session:
            return session.scalar(select(JobRow.owner).where(JobRow.id == job_id))

    def reload(self, job: JobRow) -> JobRow:
        """A row read again while its lease is held. Raises: StaleRowError: it is not."""
        found = self.job(job.id)
        if found.lease_token != job.lease_token:
            raise StaleRowError(f"the lease of job {job.id} was lost")
        return found

    def jobs(self, job_ids: Collection[str]) -> dict[str, JobRow]:
        """Those that exist, by id."""
        with self.database.read() as session:
            found = session.scalars(select(JobRow).where(JobRow.id.in_(job_ids)))
            return {job.id: job for job in found}

    def page(
        self, states: Collection[State] = (), owner: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> tuple[list[JobRow], str | None]:
        """Jobs, newest first, and the cursor of the next page, None at the end.

        Args:
            states: only jobs in these; empty: all.
            owner: only this owner's; None: everybody's.
            cursor: as an earlier page gave it.
            limit: rows at most.

        Raises:
            CursorError: the cursor is not one of ours.
        """
        query = select(JobRow).order_by(JobRow.number.desc()).limit(limit + 1)
        if states:
            query = query.where(JobRow.state.in_(states))
        if owner is not None:
            query = query.where(JobRow.owner == owner)
        if cursor is not None:
            query = query.where(JobRow.number < _decode(cursor))
        with self.database.read() as session:
            rows = list(session.scalars(query))
        more = len(rows) > limit
        return rows[:limit], _encode(rows[limit - 1].number) if more else None

    def placed_and_queued(self) -> tuple[list[JobRow], list[JobRow]]:
        """The jobs that hold a place on the cluster, and the head of the queue, best first."""
        with self.database.read() as session:
            return read_placed_and_queued(session, MOST_QUEUED)

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        with self.database.read() as session:
            rows = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
            found: dict[State, int] = {}
            for state, number in rows:  # several unknown ones are one here
                found[state] = found.get(state, 0) + int(number)
            return found

    def attempts(self, job_id: str) -> list[AttemptRow]:
        """Oldest first."""
        with self.database.read() as session:
            query = select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.number)
            return list(session.scalars(query))

    def attempt(self, job_id: str, number: int) -> AttemptRow:
        """Raises: JobNotFoundError."""
        with self.database.read() as session:
            found = session.get(AttemptRow, (job_id, number))
        if found is None:
            raise JobNotFoundError(f"job {job_id} has no attempt {number}")
        return found

    def events(self, after_id: int = 0, job_id: str | None = None, limit: int = 500) -> list[EventRow]:
        """Events with a larger id than `after_id`, in order."""
        query = select(EventRow).where(EventRow.id > after_id).order_by(EventRow.id).limit(limit)
        if job_id is not None:
            query = query.where(EventRow.job_id == job_id)
        with self.database.read() as session:
            return list(session.scalars(query))

    def newest_events(self, kind: EventType, limit: int) -> list[EventRow]:
        """The newest events of a type that are of no job, newest first."""
        query = select(EventRow).where(EventRow.job_id == "", EventRow.type == kind)
        with self.database.read() as session:
            return list(session.scalars(query.order_by(EventRow.id.desc()).limit(limit)))

    def known(self, job: JobRow) -> JobRow | None:
        """The job that the same owner sent before with the same idempotency key.

        Raises:
            ConflictError: the key was used for another body.
        """
        with self.database.read() as session:
            return find_known(session, job)

    def to_delete(self, limit: int = 100) -> list[JobRow]:
        """Jobs that are cleaned up and were deleted before: a crash came in between."""
        query = select(JobRow).where(JobRow.delete_requested.is_(True), JobRow.cleaned_up.is_(True))
        with self.database.read() as session:
            return list(session.scalars(query.where(JobRow.state.in_(ENDED)).limit(limit)))

    def ended(self) -> list[JobRow]:
        """Id, owner, state, times and model of each job that has ended and is cleaned up; nothing else is read."""
        times = (JobRow.finished_at, JobRow.updated_at)
        columns = load_only(JobRow.id, JobRow.owner, JobRow.state, *times, JobRow.model_version)
        query = select(JobRow).options(columns).where(JobRow.state.in_(ENDED), JobRow.cleaned_up.is_(True))
        with self.database.read() as session:
            return list(session.scalars(query))

    def specs(self, *, live_only: bool = False) -> Iterator[JobRow]:
        """Id, name, owner, state, spec and the job that is repeated, of each job, newest first; nothing else is read.

        Args:
            live_only: only jobs that have not ended.
        """
        about = (JobRow.id, JobRow.name, JobRow.owner, JobRow.state, JobRow.retry_of)
        columns = load_only(*about, JobRow.spec, JobRow.spec_version)
        query = select(JobRow).options(columns).order_by(JobRow.number.desc()).limit(_SPECS_AT_ONCE)
        if live_only:
            query = query.where(JobRow.state.not_in(ENDED))
        below: int | None = None
        while True:
            with self.database.read() as session:
                page = query if below is None else query.where(JobRow.number < below)
                rows = list(session.scalars(page))
            yield from rows
            if len(rows) < _SPECS_AT_ONCE:
                return
            below = rows[-1].number

    def has_queue(self) -> bool:
        """Whether anybody waits in the queue."""
        with self.database.read() as session:
            queued = select(JobRow.id).where(JobRow.state == State.QUEUED, is_known())
            return session.scalar(queued.limit(1)) is not None

    def overdue(self, queued_before: datetime, limit: int = 100) -> list[JobRow]:
        """Jobs that have waited in the queue since before a time."""
        query = select(JobRow).where(JobRow.state == State.QUEUED, JobRow.queued_at < queued_before, is_known())
        with self.database.read() as session:
            return list(session.scalars(query.order_by(JobRow.queued_at).limit(limit)))


def is_known() -> ColumnElement[bool]:
    """Whether a job is one that this release may work on: another one's wishes and specs are left alone."""
    known = [wish for wish in Desired if wish is not Desired.UNKNOWN]
    readable = or_(JobRow.spec_version.is_(None), JobRow.spec_version <= SPEC_VERSION)
    return and_(JobRow.desired.in_(known), readable)


def _head_of_queue(most: int) -> Select[JobRow]:
    """Queued jobs by priority, and within one the first job of each owner, then the second of each, and so on."""
    of_owner = func.row_number().over(partition_by=(JobRow.owner, JobRow.priority), order_by=JobRow.number)
    turns = select(JobRow.number, of_owner.label("turn")).where(JobRow.state == State.QUEUED, is_known()).subquery()
    ordered = select(JobRow).join(turns, JobRow.number == turns.c.number)
    return ordered.order_by(JobRow.priority.desc(), turns.c.turn, JobRow.number).limit(most)


def find_job(session: Session, job_id: str) -> JobRow:
    """Raises: JobNotFoundError."""
    if "\0" in job_id:
        raise JobNotFoundError("no job's id has a null character")  # which PostgreSQL would not even take
    query = select(JobRow).where(JobRow.id == job_id).execution_options(populate_existing=True)
    found = session.scalars(query).first()
    if found is None:
        raise JobNotFoundError(f"there is no job {job_id}")
    return found


def find_known(session: Session, job: JobRow) -> JobRow | None:
    """See `Queries.known`."""
    if job.idempotency_key is None:
        return None
    query = select(JobRow).where(JobRow.owner == job.owner, JobRow.idempotency_key == job.idempotency_key)
    found = session.scalars(query).first()
    if found is not None and found.body_hash != job.body_hash and not _is_same_request(found, job):
        raise ConflictError(f"this Idempotency-Key was used with another body, for job {found.id}")
    return found


def _is_same_request(found: JobRow, job: JobRow) -> bool:
    """Whether a job that another release stored is what is asked for now, once its spec has this release's fields."""
    try:
        spec = parse_spec(found.spec, found.spec_version).model_dump(mode="json")
    except SpecUnreadable:
        return False
    return spec == job.spec and found.priority == job.priority


def _encode(number: int) -> str:
    return urlsafe_b64encode(f"jobs:{number}".encode()).decode().rstrip("=")


def _decode(cursor: str) -> int:
    try:
        kind, _, number = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii").partition(":")
        if kind != "jobs":
            raise ValueError(kind)
        found = int(number)
        if not 0 < found < 2**63:
            raise ValueError(number)
        return found
    except ValueError as error:
        raise CursorError(f"not a cursor of this service: {cursor[:100]!r}") from error


def read_placed_and_queued(session: Session, most: int) -> tuple[list[JobRow], list[JobRow]]:
    """As `Queries.placed_and_queued`, within a transaction; where nothing is queued, both are empty.

    Args:
        session: to read by.
        most: length of the head of the queue: by priority, and within one the first job of each owner, the second of
            each, and so on, so that no owner's jobs keep those of another out of it. Jobs of another release are not.
    """
    queue = list(session.scalars(_head_of_queue(most)))
    if not queue:
        return [], []
    return list(session.scalars(select(JobRow).where(JobRow.state.in_(ACTIVE - {State.FINALIZING})))), queue
