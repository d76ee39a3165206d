"""Tables of the job database. Rows are read as they are and changed only through `service.db.store`."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, Index, Integer, MetaData, String, Text, UniqueConstraint, false, types
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from jobs.directory.records import Progress
from jobs.promotion import Promotion
from service.db.column_types import EnumText, JsonObject, Numbers, RecordJson, UtcDateTime, WholeNumber
from service.job_state import Desired, State

__all__ = [
    "AttemptRow",
    "AuditRow",
    "Base",
    "DeliveryRow",
    "EventCursor",
    "EventRow",
    "JobRow",
    "LeaseRow",
    "TokenRow",
    "Waiting",
    "WaitingFor",
]


class EventCursor(BaseModel):
    """How far the files of a job's newest attempt have been turned into events."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    metrics_offset: int = Field(0, alias="rows", ge=0, lt=2**62)
    """Byte of metrics.jsonl to go on from."""
    last_frame: int = Field(-1, alias="frame", ge=-1)
    """Step of the newest film strip."""
    notes: int = Field(0, ge=0)
    """Lines of notes.jsonl."""
    progress: dict[str, Any] | None = None
    """The heartbeat of the newest progress event, without its times."""
    progress_at: datetime | None = Field(None, alias="at")
    """When that event was written."""


class WaitingFor(StrEnum):
    """What a job that does not get further waits for."""

    PLACE = "place"
    """Its turn in the queue. Worked out when it is asked for, and never stored."""
    WORKERS = "workers"
    """A place on the cluster for its workers."""
    COMPARISONS = "comparisons"
    """People, who compare trials of a search by eye."""
    CLUSTER = "cluster"
    """An answer of the cluster."""
    MLFLOW = "mlflow"
    """An answer of the MLflow server."""
    DISK = "disk"
    """Room on the disk, or the disk itself."""
    STORAGE = "storage"
    """An answer of the object storage."""
    STEP = "step"
    """A step of the control plane fails for this job, and is repeated."""


class Waiting(BaseModel):
    """Why a job does not get further now."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    reason: WaitingFor = Field(alias="for")
    missing: str
    """What is missing, in words."""
    since: datetime
    failures: int = Field(0, ge=0)
    """How often in a row the step has failed, of `step`."""


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
        datetime: UtcDateTime(),
        dict[str, Any]: JsonObject(),
        dict[str, float]: Numbers(),
        int: WholeNumber(),
        State: EnumText(State),
        Desired: EnumText(Desired),
        Progress: RecordJson(Progress),
        EventCursor: RecordJson(EventCursor),
        Promotion: RecordJson(Promotion),
        Waiting: RecordJson(Waiting),
        str: Text(),
    }


class JobRow(Base):
    """A job: its spec, desired and actual state, counters, and the lease of the process that works on it."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("owner", "idempotency_key"),
        Index("ix_jobs_state_number", "state", "number"),
        Index("ix_jobs_queue", "state", "priority", "number"),
        Index("ix_jobs_owner_state", "owner", "state"),
        Index("ix_jobs_due", "cleaned_up", "not_before"),
        _INCREASING,
    )

    number: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    """Order of arrival; pages go by it."""
    id: Mapped[str] = mapped_column(String(32), unique=True)
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(String(16))
    owner: Mapped[str] = mapped_column(String(200), default="")
    spec: Mapped[dict[str, Any]]
    spec_version: Mapped[int | None]
    """Version of the spec's format; None: 1. See `jobs.directory.stored_specs`."""
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
    cleaned_up: Mapped[bool] = mapped_column(default=True)
    """False from a job's end until its process has left, its log is kept and its MLflow run is closed."""

    error_class: Mapped[str | None] = mapped_column(String(100))
    error_message: Mapped[str | None]
    progress: Mapped[Progress | None]
    """The newest heartbeat."""
    metrics: Mapped[dict[str, float] | None]
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    mlflow_url: Mapped[str | None]
    model_name: Mapped[str | None] = mapped_column(String(255))
    model_version: Mapped[str | None] = mapped_column(String(32))
    promotion: Mapped[Promotion | None]
    """Whether its model became the champion, and why."""

    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    """When it last began to wait for a start: submitted, resumed, or lost while it ran."""
    started_at: Mapped[datetime | None]
    """First heartbeat of the first attempt."""
    finished_at: Mapped[datetime | None]
    updated_at: Mapped[datetime]
    state_since: Mapped[datetime]
    last_seen_at: Mapped[datetime | None]
    """The attempt's last sign of life: a new heartbeat, or the cluster's word. By this side's clock."""
    last_progress_at: Mapped[datetime | None]
    """When the attempt was last seen to get further. By this side's clock: the nodes' clocks may be off."""
    waiting: Mapped[Waiting | None]
    """Why it does not get further now; None while it does."""
    delete_requested: Mapped[bool] = mapped_column(default=False, server_default=false())
    """A person has deleted it while it was being cleaned up: it is removed as soon as that is done."""
    event_cursor: Mapped[EventCursor | None]
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
    """An `AttemptOutcome`; None while it is open."""
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
    """An `EventType`."""
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


class TokenRow(Base):
    """An access token. The secret itself is not kept, only its SHA-256; see `service.db.access.tokens`."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    """SHA-256 of the secret, in hexadecimal."""
    name: Mapped[str] = mapped_column(String(100))
    """What it is for, in words."""
    owner: Mapped[str] = mapped_column(String(200))
    """Who asks, when a request comes with it."""
    scopes: Mapped[str] = mapped_column(String(100))
    """Names of its scopes, with blanks between them."""
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(200))
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    """To the minute."""


class AuditRow(Base):
    """A request that changed something, or was refused to."""

    __tablename__ = "audit"
    __table_args__ = (_INCREASING,)

    id: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    who: Mapped[str] = mapped_column(String(200))
    """The owner; empty where nobody has said who asks."""
    token_id: Mapped[str | None] = mapped_column(String(32))
    address: Mapped[str] = mapped_column(String(64))
    """Of the client, or `command line`."""
    action: Mapped[str] = mapped_column(String(200))
    """Method and path of the route, or a verb of the command line."""
    target: Mapped[str] = mapped_column(String(300))
    """Path of the request."""
    status: Mapped[int | None]
    """HTTP status of the answer; None where it was written together with what was changed."""
    changed: Mapped[dict[str, Any]]
