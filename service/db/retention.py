"""Retention of rows: which events and deliveries are kept, and for how long."""

from datetime import datetime

from sqlalchemy import and_, delete, func, select

from service.db.engine import Database
from service.db.models import DeliveryRow, EventRow, JobRow
from service.job_state import EventType

__all__ = ["Retention"]

_MANY = (
    *(EventType.PROGRESS, EventType.METRICS, EventType.FRAME, EventType.NOTICE, EventType.WAITING),
    EventType.RETENTION,
)
"""Types of which a job, or the service, may have any number; transitions tell a job's story, and stay."""


class Retention:
    """Removes rows that nobody will ask for again. All methods give the number of rows that went.

    They raise StoreUnavailableError when the database does not answer.

    Args:
        database: the job database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def prune(self, before: datetime) -> int:
        """Removes progress events and done deliveries from before a time."""
        beats = and_(EventRow.type == EventType.PROGRESS, EventRow.at < before)
        done = and_(DeliveryRow.done.is_(True), DeliveryRow.next_at < before)
        with self._database.read() as session:
            old = [select(EventRow.id).where(beats).limit(1), select(DeliveryRow.id).where(done).limit(1)]
            if all(session.scalar(query) is None for query in old):
                return 0
        with self._database.write() as session:
            events = session.execute(delete(EventRow).where(beats).execution_options(synchronize_session=False))
            sent = session.execute(delete(DeliveryRow).where(done).execution_options(synchronize_session=False))
            return int(events.rowcount + sent.rowcount)  # type: ignore[attr-defined]  # of every DELETE

    def forget_deleted_jobs(self, before: datetime) -> int:
        """Removes the events of deleted jobs that were deleted before a time."""
        deleted = select(EventRow.job_id).where(EventRow.type == EventType.DELETED, EventRow.at < before)
        # An id is never used twice; this is for a database that was put together from two.
        gone = and_(EventRow.job_id.in_(deleted), EventRow.job_id.not_in(select(JobRow.id)))
        with self._database.read() as session:
            if session.scalar(select(EventRow.id).where(gone).limit(1)) is None:
                return 0
        with self._database.write() as session:
            removed = session.execute(delete(EventRow).where(gone).execution_options(synchronize_session=False))
            return int(removed.rowcount)  # type: ignore[attr-defined]

    def limit_events(self, most: int) -> int:
        """Of each job's evaluations, film strips and the like only the newest `most` are kept."""
        counted = select(EventRow.job_id).where(EventRow.type.in_(_MANY)).group_by(EventRow.job_id)
        with self._database.read() as session:
            too_many = list(session.scalars(counted.having(func.count() > most)))
        removed = 0
        for job_id in too_many:
            of_job = and_(EventRow.job_id == job_id, EventRow.type.in_(_MANY))
            with self._database.write() as session:
                newest = select(EventRow.id).where(of_job).order_by(EventRow.id.desc())
                last = session.scalar(newest.offset(most).limit(1))
                if last is not None:
                    old = delete(EventRow).where(of_job, EventRow.id <= last)
                    done = session.execute(old.execution_options(synchronize_session=False))
                    removed += int(done.rowcount)  # type: ignore[attr-defined]
        return removed
