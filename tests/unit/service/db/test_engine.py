"""Migrations and the connection, on SQLite and on PostgreSQL alike."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from service.db.engine import Database
from service.db.models import Base, LeaseRow
from service.db.store import Store
from service.errors import StoreUnavailableError

_MIGRATE = """
import sys
from service.db.store import Store
print("ready", flush=True)
sys.stdin.readline()
store = Store(sys.argv[1])
store.migrate()
print(len(store.events()), flush=True)
store.close()
"""


def test_the_migrations_make_the_tables_that_the_code_reads(database_url: str) -> None:
    database = Database(database_url)
    database.migrate()
    with database.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    database.close()


def test_migrating_again_changes_nothing(database_url: str) -> None:
    store = Store(database_url)
    store.migrate()
    store.migrate()
    assert store.events() == []
    store.close()


def test_processes_that_start_at_once_on_a_new_database_all_come_up(database_url: str) -> None:
    command = [sys.executable, "-c", _MIGRATE, database_url]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert answers == ["0"] * 3
    assert [process.returncode for process in processes] == [0] * 3


def test_a_failed_write_leaves_nothing(database_url: str) -> None:
    store = Store(database_url)
    store.migrate()
    now = store.now()

    def write_twice() -> None:
        with store.database.write() as session:
            session.add(LeaseRow(name="a", owner="x", expires=now))
            session.flush()
            session.execute(text("INSERT INTO leases (name, owner, expires) SELECT name, owner, expires FROM leases"))

    with pytest.raises(IntegrityError):
        write_twice()
    with store.database.read() as session:
        assert session.get(LeaseRow, "a") is None
    store.close()


def test_sqlite_survives_a_crash_of_the_machine(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'jobs.db'}")
    database.migrate()
    with database.read() as session:
        settings = [session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert settings == ["wal", 2, 1]
    database.close()


def test_a_reader_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'jobs.db'}")
    store.migrate()
    with store.database.write() as session:
        session.add(LeaseRow(name="a", owner="x", expires=store.now()))
        session.flush()
        with store.database.read() as reader:
            assert reader.get(LeaseRow, "a") is None
    with store.database.read() as reader:
        assert reader.get(LeaseRow, "a") is not None
    store.close()


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "sqlite:////proc/none/jobs.db"])
def test_a_database_that_is_away_is_told_as_such(url: str) -> None:
    database = Database(url)
    with pytest.raises(StoreUnavailableError):
        database.ping()
    database.close()
