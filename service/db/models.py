"""The job database's tables. Rows are read as they are and changed only through `service.db.store`."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    types,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.job_state import Desired, State

__all__ = ["AttemptRow", "Base", "DeliveryRow", "EventRow", "JobRow", "LeaseRow"]


class Instant(TypeDecorator[datetime]):
    """A moment in UTC. Refuses naive datetimes; SQLite keeps no zone, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Word(TypeDecorator[Any]):
    """A StrEnum kept as text, so that a new value needs no migration of a database type."""

    impl = String(16)
    cache_ok = True

    def __init__(self, kind: type[State] | type[Desired]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else self.kind(value).value

    def process_result_value(self, value: Any, dialect: Dialect) -> State | Desired | None:  # noqa: ARG002
        return None if value is None else self.kind(value)


Document = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Serial = BigInteger().with_variant(Integer(), "sqlite")
# SQLite gives increasing ids only to "INTEGER PRIMARY KEY AUTOINCREMENT"; otherwise it may reuse the last one.
_INCREASING = {"sqlite_autoincrement": True}


class Base(DeclarativeBase):
    """Root of the tables; constraint names are fixed so that migrations can name them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 -- SQLAlchemy's own way
        datetime: Instant(),
        dict[str, Any]: Document,
        dict[str, float]: Document,
        State: Word(State),
        Desired: Word(Desired),
        str: Text(),
    }


class JobRow(Base):
    """A job: what was asked for, what is wanted of it now, where it is, and who works on it."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("owner", "idempotency_key"),
        Index("ix_jobs_state_number", "state", "number"),
        Index("ix_jobs_queue", "state", "priority", "number"),
        Index("ix_jobs_owner_state", "owner", "state"),
        Index("ix_jobs_due", "tidy", "not_before"),
        _INCREASING,
    )

    number: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    """Order of arrival; pages go by it."""
    id: Mapped[str] = mapped_column(String(32), unique=True)
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(String(16))
    owner: Mapped[str] = mapped_column(String(200), default="")
    spec: Mapped[dict[str, Any]]
    priority: Mapped[int] = mapped_column(default=0)
    """Higher goes first."""
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    body_hash: Mapped[str | None] = mapped_column(String(64))
    retry_of: Mapped[str | None] = mapped_column(String(32))
    """The ended job that this one repeats."""

    state: Mapped[State]
    desired: Mapped[Desired]
    version: Mapped[int] = mapped_column(default=1)
    """Goes up with each change of state or of what is wanted; every such change compares it first."""
    attempt: Mapped[int] = mapped_column(default=0)
    """Number of the newest attempt; 0 before the first."""
    retries: Mapped[int] = mapped_column(default=0)
    """Retries spent on the user's own errors."""
    losses: Mapped[int] = mapped_column(default=0)
    """Attempts lost to infrastructure; they don't count as retries."""
    losses_in_row: Mapped[int] = mapped_column(default=0)
    """Of these, since the last attempt that got further than any before; decides the back-off."""
    best_iteration: Mapped[int] = mapped_column(default=0)
    """Furthest iteration that any attempt has reported."""

    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_expires: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    """The reconciler leaves the row alone until then (back-off)."""
    tidy: Mapped[bool] = mapped_column(default=True)
    """False from a job's end until its process, logs and MLflow run are seen to."""

    error_class: Mapped[str | None] = mapped_column(String(100))
    error_message: Mapped[str | None]
    progress: Mapped[dict[str, Any] | None]
    """The newest heartbeat, as the attempt wrote it."""
    metrics: Mapped[dict[str, float] | None]
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    mlflow_url: Mapped[str | None]
    model_name: Mapped[str | None] = mapped_column(String(255))
    model_version: Mapped[str | None] = mapped_column(String(32))

    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    """When it last began to wait for a start: submitted, resumed, or lost while it ran."""
    started_at: Mapped[datetime | None]
    """First heartbeat of the first attempt."""
    finished_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]
    state_since: Mapped[datetime]
    alive_at: Mapped[datetime | None]
    """The attempt's last sign of life: a new heartbeat, or the cluster's word. By this side's clock."""
    moved_at: Mapped[datetime | None]
    """When the attempt was last seen to get further. By this side's clock: the nodes' clocks may be off."""
    told: Mapped[dict[str, Any] | None]
    """How much of the attempt's files has become events; see `service.reconciler.event_feed`."""


class AttemptRow(Base):
    """One try at a job. Written before the cluster is asked, so that no process is ever unknown."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    submission_id: Mapped[str] = mapped_column(String(64), unique=True)
    cluster_id: Mapped[str | None] = mapped_column(String(100))
    """The cluster that was asked; None until it is."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(16))
    """succeeded, failed, lost, paused or cancelled; None while it is open."""
    error_class: Mapped[str | None] = mapped_column(String(100))
    error_message: Mapped[str | None]


class EventRow(Base):
    """Something that happened, in order. Rows never change and outlive their job; only old progress is ever removed."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job_id_id", "job_id", "id"), _INCREASING)

    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(String(32))
    at: Mapped[datetime]
    type: Mapped[str] = mapped_column(String(16))
    """transition, progress, metrics, frame, notice or deleted."""
    data: Mapped[dict[str, Any]]


class DeliveryRow(Base):
    """The outbox of webhooks: one row for each event and receiver, written with the event itself."""

    __tablename__ = "deliveries"
    __table_args__ = (Index("ix_deliveries_due", "done", "next_at"), _INCREASING)

    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    event_id: Mapped[int] = mapped_column(BigInteger())
    url: Mapped[str]
    body: Mapped[str]
    """Exactly what is signed and sent."""
    done: Mapped[bool] = mapped_column(types.Boolean(), default=False)
    tries: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
    error: Mapped[str | None]
    """Why it was not delivered the last time."""


class LeaseRow(Base):
    """Work that one process at a time does for all, such as the sweep."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    owner: Mapped[str] = mapped_column(String(100))
    expires: Mapped[datetime]
