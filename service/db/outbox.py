"""Transactional outbox of webhook deliveries: takes those that are due, and records how each try went."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Update, or_, select, update

from service.clock import CLOCK_SKEW
from service.db.engine import Database
from service.db.models import DeliveryRow

__all__ = ["Delivery", "Outbox"]

_LEASE = timedelta(seconds=60)
"""A process that took deliveries and died leaves them to others after so long."""

_LONGEST_WAIT = timedelta(hours=1)
"""No try is put off for longer; one that is due later is due now, since the clock has been set back."""

_LONGEST_ERROR = 1000


@dataclass(frozen=True)
class Delivery:
    """One event on its way to one receiver."""

    id: int
    event_id: int
    url: str
    """Of the receiver."""
    body: str
    """Exactly what is signed and sent."""
    tries: int
    """How often it has been tried."""


class Outbox:
    """Deliveries that were written with their events and have not arrived. Several processes may work on them.

    All methods raise StoreUnavailableError when the database does not answer.

    Args:
        database: the job database.
        clock: tells the time, in UTC.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._now = clock

    def now(self) -> datetime:
        """The time by which deliveries are due, in UTC."""
        return self._now()

    def take_due(self, limit: int) -> list[Delivery]:
        """Deliveries that are due, oldest first; for a while nobody else takes them."""
        now = self._now()
        beyond = now + _LONGEST_WAIT + CLOCK_SKEW
        due = (DeliveryRow.done.is_(False), or_(DeliveryRow.next_at <= now, DeliveryRow.next_at > beyond))
        with self._database.read() as session:
            # Most rounds find nothing: they should not take turns with writers.
            if session.scalar(select(DeliveryRow.id).where(*due).limit(1)) is None:
                return []
        with self._database.write() as session:
            rows = list(session.scalars(select(DeliveryRow).where(*due).order_by(DeliveryRow.id).limit(limit)))
            taken = update(DeliveryRow).where(DeliveryRow.id.in_([row.id for row in rows]))
            session.execute(_unsynchronized(taken.values(next_at=now + _LEASE)))
            return [Delivery(row.id, row.event_id, row.url, row.body, row.tries) for row in rows]

    def mark_delivered(self, delivery: Delivery) -> None:
        """Records that the receiver has it: it is never taken again."""
        tried = update(DeliveryRow).where(DeliveryRow.id == delivery.id).values(tries=delivery.tries + 1)
        self._write(tried.values(done=True, delivered_at=self._now(), error=None))

    def mark_failed(self, delivery: Delivery, error: str, wait: float, *, give_up: bool) -> None:
        """Records a try that did not arrive.

        Args:
            delivery: as it was taken.
            error: why it did not arrive.
            wait: seconds until it is due again.
            give_up: it is never taken again.
        """
        tried = update(DeliveryRow).where(DeliveryRow.id == delivery.id).values(tries=delivery.tries + 1)
        next_at = self._now() + min(timedelta(seconds=wait), _LONGEST_WAIT)
        self._write(tried.values(done=give_up, next_at=next_at, error=error[:_LONGEST_ERROR]))

    def _write(self, statement: Update) -> None:
        with self._database.write() as session:
            session.execute(_unsynchronized(statement))


def _unsynchronized(statement: Update) -> Update:
    # No row is loaded in these sessions that would have to be kept in step.
    return statement.execution_options(synchronize_session=False)
