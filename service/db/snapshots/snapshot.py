"""Snapshot of a job database as an SQLite file, and the loading of one into a new, empty PostgreSQL database.

An SQLite database is copied page by page. Of a PostgreSQL database the rows are copied, all as they are at one moment;
so a backup of the one can be restored into the other. Rows are taken as they are: what this release can't read stays.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import JSON, Connection, MetaData, Table, Text, event, inspect, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DatabaseError, StatementError

from service.clock import utc_now
from service.db.audit import Actor, current_actor, record
from service.db.engine import Database, check_revision, upgrade
from service.db.models import Base, JobRow
from service.db.snapshots.sqlite_files import copy_sqlite, reason_of
from service.errors import BackupError

__all__ = ["adopt", "loaded_into", "sqlite_database", "take_snapshot"]

_AT_ONCE = 500
"""Rows that are held in memory."""

_JSON = "is_json"
"""Key in what is known of a column besides its type."""

_WHOLE_SNAPSHOT = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
    "SET LOCAL statement_timeout = 0",
)


def sqlite_database(path: Path) -> Database:
    """The job database in an SQLite file."""
    return Database(f"sqlite:///{quote(str(path.absolute()))}")


def take_snapshot(database: Database, target: Path) -> str:
    """Writes all rows of a job database, as they are at one moment, into a new SQLite file. Writers go on.

    Returns:
        Name of the newest migration that its tables have seen.

    Raises:
        BackupError: it has no tables of ours, or can't be read.
        NewerDatabaseError: it is that of a newer release.
        StoreUnavailableError: it does not answer.
    """
    revision = database.revision()
    if revision is None:
        raise BackupError("the job database has no tables yet")
    check_revision(revision)
    if database.is_sqlite:
        copy_sqlite(Path(str(database.url.database)), target)
        return revision
    copy = sqlite_database(target)
    try:
        copy.migrate(revision)
        with database.read() as source, copy.write() as destination:
            for statement in _WHOLE_SNAPSHOT:
                source.execute(text(statement))
            _copy_rows(source.connection(), destination.connection())
    finally:
        copy.close()
    copy_sqlite(target, final := target.with_name(f"{target.name}.new"))  # folds the write-ahead log into the file
    final.replace(target)
    return revision


@contextmanager
def loaded_into(database: Database, snapshot: Path) -> Iterator[None]:
    """Loads a snapshot into an empty PostgreSQL database; committed when the block ends, and not at all if it raises.

    Raises:
        BackupError: the database has tables of ours already, or does not take a row.
        StoreUnavailableError: it does not answer.
    """
    copy = sqlite_database(snapshot)
    try:
        with copy.read() as source, database.write() as destination:
            connection = destination.connection()
            if {*Base.metadata.tables, "alembic_version"} & set(inspect(connection).get_table_names()):
                raise BackupError("the database that SEQAE_DATABASE_URL names has tables already; name an empty one")
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            upgrade(connection, copy.revision() or "head")
            _copy_rows(source.connection(), connection)
            yield
    except DatabaseError as error:
        raise BackupError(f"the database does not take the rows: {reason_of(error.orig or error)}") from error
    finally:
        copy.close()


def adopt(snapshot: Path, revision: str, by: str, home: str, about: Mapping[str, str]) -> int:
    """Brings a restored snapshot to this release's tables, and writes into its audit log where it comes from.

    Args:
        snapshot: an SQLite file that nobody else uses.
        revision: of its tables, as the backup says.
        by: who restores it.
        home: whose database it is going to be.
        about: what the audit log says of the backup.

    Returns:
        How many jobs it has.

    Raises:
        BackupError: it is damaged, or its tables are of another revision.
    """
    copy = sqlite_database(snapshot)
    actor = current_actor.set(Actor("command line", "seqae restore", home, who=by))
    try:
        if copy.revision() != revision:
            raise BackupError(f"{snapshot.name} is damaged: its tables are not those of the backup")
        copy.migrate()
        with copy.write() as session:
            record(session, utc_now(), about)
            return session.query(JobRow).count()
    except DatabaseError as error:
        raise BackupError(f"{snapshot.name} is damaged: {reason_of(error.orig or error)}") from error
    finally:
        current_actor.reset(actor)
        copy.close()
        snapshot.with_name(f"{snapshot.name}.lock").unlink(missing_ok=True)


def _copy_rows(source: Connection, target: Connection) -> None:
    tables, own = _reflected(source), _reflected(target)
    for name, table in sorted(tables.items()):
        rows = source.execute(table.select(), execution_options={"stream_results": True, "yield_per": _AT_ONCE})
        for part in rows.mappings().partitions(_AT_ONCE):
            values = [{key: _value(value, table, key, target) for key, value in row.items()} for row in part]
            try:
                target.execute(own[name].insert(), values)
            except StatementError as error:
                raise BackupError(f"a row of the table {name} is damaged, and the database does not take it") from error
        _copy_counter(source, target, name)


def _reflected(connection: Connection) -> Mapping[str, Table]:
    """The tables of ours that a database has, with plain types, which leave values as they are."""
    metadata, is_sqlite = MetaData(), connection.dialect.name == "sqlite"
    listed = [name for name in inspect(connection).get_table_names() if name in Base.metadata.tables]

    @event.listens_for(metadata, "column_reflect")
    def _plain(_inspector: object, _table: object, column: dict[str, Any]) -> None:
        if isinstance(column["type"], JSON):
            column["type"] = Text() if is_sqlite else JSONB(none_as_null=True)
            column["info"] = {_JSON: True}

    metadata.reflect(connection, only=listed)
    return metadata.tables


def _value(value: object, table: Table, column: str, target: Connection) -> object:
    """A value as the other database takes it: SQLite keeps no zone, and JSON as text."""
    to_sqlite = target.dialect.name == "sqlite"
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None) if to_sqlite else value.replace(tzinfo=UTC)
    if value is None or not table.columns[column].info.get(_JSON):
        return value
    if to_sqlite:
        return json.dumps(value)
    try:
        return json.loads(str(value))
    except (ValueError, RecursionError):
        return str(value)  # damaged; read as nothing by either database


def _copy_counter(source: Connection, target: Connection, name: str) -> None:
    """Ids of rows that are gone are not given out again: clients resume after the last one that they have seen."""
    column = Base.metadata.tables[name].autoincrement_column
    if column is None or not Base.metadata.tables[name].dialect_options["sqlite"]["autoincrement"]:
        return
    serial = {"name": name, "column": column.name}
    if source.dialect.name == "sqlite":
        last = source.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), serial)
    else:
        sequence = source.scalar(text("SELECT pg_get_serial_sequence(:name, :column)"), serial)
        last = source.scalar(text(f"SELECT last_value FROM {sequence} WHERE is_called"))
    if last is None:
        return
    if target.dialect.name == "sqlite":
        target.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), serial)
        target.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), serial | {"last": last})
    else:
        target.execute(text("SELECT setval(pg_get_serial_sequence(:name, :column), :last)"), serial | {"last": last})
