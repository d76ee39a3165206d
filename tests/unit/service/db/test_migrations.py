"""Upgrades of job databases of every revision there ever was, with rows in each table; downgrades, which are refused.

`tests/fixtures/legacy/revisions` has the tables as the code of that time made them, see its README.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import Connection, MetaData, Table, inspect, text
from sqlalchemy.types import DateTime

from jobs.directory.stored_specs import parse_spec
from service.db.access.tokens import Tokens, token_view
from service.db.audit import AuditLog
from service.db.engine import Database
from service.db.store import Store
from service.errors import NewerDatabaseError
from service.job_state import Desired, State
from service.scopes import Scope

ROOT = Path(__file__).parents[4]
REVISIONS = sorted((ROOT / "tests/fixtures/legacy/revisions").glob("*.json"))
HEAD = max(path.name[1:5] for path in (ROOT / "service/db/migrations/versions").glob("v*.py"))

RENAMED = {"tidy": "cleaned_up", "alive_at": "last_seen_at", "moved_at": "last_progress_at", "told": "event_cursor"}
"""Columns of jobs that 0002 gave another name."""

ADDED = {"spec_version": None, "waiting": None, "delete_requested": False, "promotion": None}
"""Columns of jobs that later revisions added, and what a row from before has there."""

Row = dict[str, Any]


class Revision(BaseModel):
    """Tables and rows of one revision."""

    commit: str
    schema_: list[str]
    rows: dict[str, list[Row]]


def read(path: Path) -> Revision:
    content = json.loads(path.read_bytes())
    return Revision.model_validate(content | {"schema_": content.pop("schema")})


def tables(connection: Connection) -> Mapping[str, Table]:
    metadata = MetaData()
    metadata.reflect(connection)
    return metadata.tables


def fill(database: Database, revision: str, found: Revision) -> None:
    """Makes the tables of a revision, by the statements of that time on SQLite, and puts its rows in."""
    if not database.is_sqlite:
        database.migrate(revision)
    with database.write() as session:
        connection = session.connection()
        if database.is_sqlite:
            for statement in found.schema_:
                connection.exec_driver_sql(statement)
            connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{revision}')")
        known = tables(connection)
        for name, rows in found.rows.items():
            for row in rows:
                connection.execute(known[name].insert(), stored(known[name], row))


def stored(table: Table, row: Row) -> Row:
    return {
        name: datetime.fromisoformat(value) if isinstance(table.columns[name].type, DateTime) else value
        for name, value in row.items()
    }


def all_rows(database: Database) -> dict[str, list[Row]]:
    """Every row as plain data, by table."""
    with database.read() as session:
        return {
            name: [
                {key: plain(value) for key, value in row.items()}
                for row in session.execute(table.select().order_by(*table.primary_key)).mappings()
            ]
            for name, table in tables(session.connection()).items()
            if name != "alembic_version"
        }


def plain(value: Any) -> Any:
    return value.replace(tzinfo=value.tzinfo or UTC).isoformat() if isinstance(value, datetime) else value


def expected(name: str, row: Row, columns: set[str]) -> Row:
    """A row as it has to be in the newest tables."""
    renamed = {RENAMED.get(key, key) if name == "jobs" else key: value for key, value in row.items()}
    added = {key: value for key, value in ADDED.items() if name == "jobs" and key in columns}
    return dict.fromkeys(columns, None) | added | renamed


def test_there_is_a_fixture_of_every_revision() -> None:
    assert [path.stem for path in REVISIONS] == [f"{number:04d}" for number in range(1, int(HEAD) + 1)]


@pytest.mark.parametrize("path", REVISIONS, ids=lambda path: path.stem)
def test_an_upgrade_keeps_every_row(path: Path, database_url: str) -> None:
    found = read(path)
    database = Database(database_url)
    fill(database, path.stem, found)
    database.migrate()
    assert database.revision() == HEAD
    rows = all_rows(database)
    assert set(found.rows) <= rows.keys()
    for name, now in rows.items():
        before = found.rows.get(name, [])
        columns = set(now[0]) if now else set()
        assert now == [expected(name, row, columns) for row in before], name
    database.close()


@pytest.mark.parametrize("path", REVISIONS, ids=lambda path: path.stem)
def test_what_was_upgraded_is_read_and_written_as_ever(path: Path, database_url: str) -> None:
    found = read(path)
    store = Store(database_url)
    fill(store.database, path.stem, found)
    store.migrate()
    full = store.job("job_00000000000a")
    assert (full.state, full.desired, full.cleaned_up) == (State.PAUSED, Desired.PAUSE, True)
    assert parse_spec(full.spec, full.spec_version).name == "old job"
    assert full.progress is not None
    assert full.progress.iteration == 7
    assert full.event_cursor is not None
    assert (full.event_cursor.metrics_offset, full.event_cursor.last_frame) == (120, 4)
    assert (full.waiting is not None, full.promotion is not None) == (path.stem >= "0003", path.stem >= "0004")
    assert [job.id for job in store.page()[0]] == ["job_00000000000b", "job_00000000000a"]
    assert [event.id for event in store.events()] == [4_000_000_000, 4_000_000_001]
    assert [attempt.outcome for attempt in store.attempts("job_00000000000a")] == ["paused"]
    assert len(AuditLog(store.database, store.now).page(None, 10)) == (2 if path.stem >= "0005" else 0)
    known = [token_view(row).scopes for row in Tokens(store.database, store.now).all()]
    assert known == ([(Scope.READ, Scope.SUBMIT)] * 2 if path.stem >= "0005" else [])
    # On PostgreSQL the fixture's ids did not come from the sequence; on SQLite new ones follow the old.
    if store.database.is_sqlite:
        store.transition(full, State.QUEUED)
        assert store.events()[-1].id == 4_000_000_002
    store.close()


def test_the_tables_of_a_fixture_are_those_that_the_migrations_make(tmp_path: Path) -> None:
    """A migration that was released is never changed: the fixtures were made by the code of that time."""
    for path in REVISIONS:
        database = Database(f"sqlite:///{tmp_path / path.stem}.db")
        database.migrate(path.stem)
        with database.read() as session:
            query = "SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' AND sql IS NOT NULL"
            assert set(session.scalars(text(query))) == set(read(path).schema_), path.stem
        database.close()


def test_a_downgrade_is_refused_with_what_to_do(database_url: str) -> None:
    """The next release has added a table; this one is started on its database."""
    newer = f"{int(HEAD) + 1:04d}"
    database = Database(database_url)
    database.migrate()
    with database.write() as session:
        session.execute(text("CREATE TABLE of_the_next_release (id INTEGER)"))
        session.execute(text(f"UPDATE alembic_version SET version_num = '{newer}'"))
    before = all_rows(database)
    with pytest.raises(NewerDatabaseError) as caught:
        database.migrate()
    said = str(caught.value)
    assert f"revision '{newer}'" in said
    assert f"this release, seqae 0.1.0, knows them up to {HEAD}" in said
    assert "Install the newer release again, or restore a backup" in said
    assert database.revision() == newer
    assert all_rows(database) == before
    with database.read() as session:
        assert "of_the_next_release" in inspect(session.connection()).get_table_names()
    database.close()
