"""Column types of the job database, which read every value that may be in a row, whoever wrote it.

A value that this release can't read (another release's, or damaged) must never keep the row, or a list of rows, from
being read: it becomes a harmless value of the column's type, and the log says so.
"""

import logging
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy import JSON, DateTime, Dialect, Integer, String, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from jobs.directory.files import describe_invalid
from service.job_state import Desired, State

__all__ = ["EnumText", "Json", "JsonObject", "Numbers", "RecordJson", "UtcDateTime", "WholeNumber", "wire_safe"]

log = logging.getLogger(__name__)

RecordT = TypeVar("RecordT", bound=BaseModel)

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""What an instant that can't be read counts as."""

_DEEPEST = 40
_LARGEST_INTEGER = 2**63


@lru_cache(maxsize=1000)
def _warn(message: str) -> None:
    """Says something once: rows are read again and again."""
    log.warning(message)


def _lenient(read: Any, instead: Callable[[], object], message: str) -> Any:
    """A result processor that gives something harmless for what the database's own can't read."""

    def process(value: Any) -> Any:
        try:
            return value if read is None else read(value)
        except (ArithmeticError, TypeError, ValueError, RecursionError):
            _warn(message)
            return instead()

    return process


class UtcDateTime(TypeDecorator[datetime]):
    """A datetime in UTC. Refuses naive ones; SQLite keeps no zone, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """As SQLAlchemy's own, without an exception for a text that is no time."""
        return _lenient(
            super().result_processor(dialect, coltype),
            lambda: _LONG_AGO,
            "a time of the job database can't be read, and counts as 1970",
        )

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """The value in UTC. Raises: ValueError: it has no time zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """The instant; 1970 for what is none."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class WholeNumber(TypeDecorator[int]):
    """An integer. SQLite keeps texts in integer columns, too: those count as 0."""

    impl = Integer
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:  # noqa: ARG002
        """The number; 0 for what is none."""
        if value is None or isinstance(value, int):
            return value
        _warn("a number of the job database can't be read, and counts as 0")
        return 0


class EnumText(TypeDecorator[Any]):
    """A StrEnum kept as text, so that a new value needs no migration of a database type.

    A value that this release does not know is read as the enum's UNKNOWN, which is never written.
    """

    impl = String(16)
    cache_ok = True

    def __init__(self, kind: type[State] | type[Desired]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002
        """The value as text."""
        return None if value is None else self.kind(value).value

    def process_result_value(self, value: Any, dialect: Dialect) -> State | Desired | None:  # noqa: ARG002
        """The value; UNKNOWN for another release's."""
        if value is None:
            return None
        try:
            return self.kind(value)
        except ValueError:
            _warn(f"{self.kind.__name__} {str(value)[:32]!r} in the job database is of another release")
            return self.kind.UNKNOWN


class Json(TypeDecorator[Any]):
    """Plain data as JSON: JSONB on PostgreSQL, text on SQLite. What is not JSON is read as None."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type of the dialect. PostgreSQL itself refuses what is no JSON."""
        on_postgresql = dialect.name == "postgresql"
        return dialect.type_descriptor((JSONB if on_postgresql else JSON)(none_as_null=True))

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """As SQLAlchemy's own, without an exception for a text that is no JSON."""
        return _lenient(
            super().result_processor(dialect, coltype),
            lambda: self.from_json(None),
            "a value of the job database is not JSON, and is left out",
        )

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        """The value as plain data."""
        return self.to_json(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        """The value for plain data."""
        return self.from_json(value)

    def to_json(self, value: Any) -> Any:
        """Plain data for a value of the column."""
        return value

    def from_json(self, plain: Any) -> Any:
        """The value of the column for plain data."""
        return wire_safe(plain)


class JsonObject(Json):
    """A JSON object, as it is; see `wire_safe` for what may be in it. Anything else is read as an empty one."""

    cache_ok = True

    def from_json(self, plain: Any) -> Any:
        """The object."""
        return plain if isinstance(plain, dict) else {}


class Numbers(Json):
    """Numbers by name. Values that are no finite numbers are left out."""

    cache_ok = True

    def from_json(self, plain: Any) -> dict[str, float] | None:
        """The numbers."""
        if not isinstance(plain, dict):
            return None
        named = {wire_safe(name): _as_number(value) for name, value in plain.items()}
        return {name: value for name, value in named.items() if value is not None}


class RecordJson(Json, Generic[RecordT]):
    """A pydantic model kept as JSON, by the aliases of its fields. One that does not parse is read as None."""

    cache_ok = True

    def __init__(self, record: type[RecordT]) -> None:
        super().__init__()
        self.record = record

    def to_json(self, value: RecordT | None) -> Any:
        """The record's fields."""
        return None if value is None else value.model_dump(mode="json", by_alias=True)

    def from_json(self, plain: Any) -> RecordT | None:
        """The record."""
        if plain is None:
            return None
        try:
            return self.record.model_validate(plain)
        except ValidationError as error:
            _warn(f"a {self.record.__name__} of the job database is left out: {describe_invalid(error)}")
            return None


def wire_safe(value: Any, depth: int = 0) -> Any:
    """Plain data as they can be sent in any answer: finite numbers of 64 bits, whole characters, no endless nesting."""
    if depth > _DEEPEST:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < _LARGEST_INTEGER else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {wire_safe(str(key)): wire_safe(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [wire_safe(item, depth + 1) for item in value]
    return None


def _as_number(value: Any) -> float | None:
    safe = None if isinstance(value, bool) else wire_safe(value)
    return float(safe) if isinstance(safe, int | float) else None
