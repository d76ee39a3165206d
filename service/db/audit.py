"""Audit log: who changed what by a request, or was refused to.

Changes of jobs and tokens are written in the transaction of the change itself, by way of `current_actor`: so there is
no change without its row. What the database takes no part in, and what is refused, is written after the answer.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.clock import Clock
from service.db.engine import Database
from service.db.models import AuditRow

__all__ = ["Actor", "AuditLog", "current_actor", "record"]

_MOST_REMOVED = 10_000


@dataclass
class Actor:
    """Who makes the request in progress, and what it asks for."""

    address: str
    action: str
    target: str
    who: str = ""
    token_id: str | None = None
    recorded: bool = False
    """Whether a change was written together with its row."""


current_actor: ContextVar[Actor | None] = ContextVar("current_actor", default=None)
"""Set while a request that changes something is worked on, in its threads too."""


def record(session: Session, at: datetime, changed: Mapping[str, Any]) -> None:
    """Writes a change of the present actor, in the transaction of the change; nothing where nobody asked for it."""
    actor = current_actor.get()
    if actor is not None:
        session.add(_row(actor, at, None, changed))
        actor.recorded = True


def _row(actor: Actor, at: datetime, status: int | None, changed: Mapping[str, Any]) -> AuditRow:
    return AuditRow(
        at=at,
        who=_text(actor.who, 200),
        token_id=actor.token_id,
        address=_text(actor.address, 64),
        action=_text(actor.action, 200),
        target=_text(actor.target, 300),
        status=status,
        changed=dict(changed),
    )


def _text(text: str, most: int) -> str:
    """A text that any database takes: no null characters, whole letters, not too long."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:most]


class AuditLog:
    """Rows of the audit log. All methods raise StoreUnavailableError when the database does not answer.

    Args:
        database: the job database.
        clock: tells the time, in UTC.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._now = clock

    def add(self, actor: Actor, status: int, changed: Mapping[str, Any]) -> None:
        """Writes what came of a request that left no row of its own."""
        with self._database.write() as session:
            session.add(_row(actor, self._now(), status, changed))

    def page(self, before: int | None, limit: int) -> list[AuditRow]:
        """Rows with an id below `before`, newest first."""
        query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        if before is not None:
            query = query.where(AuditRow.id < before)
        with self._database.read() as session:
            return list(session.scalars(query))

    def prune(self, before: datetime, most: int) -> int:
        """Removes rows from before a time, and the oldest ones beyond `most`, some at a time; how many went."""
        with self._database.read() as session:
            beyond = session.scalar(select(AuditRow.id).order_by(AuditRow.id.desc()).offset(most).limit(1))
            late = session.scalar(select(func.max(AuditRow.id)).where(AuditRow.at < before))
        last = max(beyond or 0, late or 0)
        if not last:
            return 0
        with self._database.write() as session:
            old = select(AuditRow.id).where(AuditRow.id <= last).order_by(AuditRow.id).limit(_MOST_REMOVED)
            gone = delete(AuditRow).where(AuditRow.id.in_(old)).execution_options(synchronize_session=False)
            return int(session.execute(gone).rowcount)  # type: ignore[attr-defined]  # of every DELETE
