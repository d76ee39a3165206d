"""Snapshots of the job database on SQLite and PostgreSQL, and their return into either."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from jobs.specs import job_spec
from service.db.engine import Database
from service.db.models import Base, JobRow
from service.db.snapshots.snapshot import adopt, loaded_into, sqlite_database, take_snapshot
from service.db.store import Store
from service.errors import BackupError, NewerDatabaseError
from service.job_state import Desired, State

SPEC = job_spec.validate_python({"name": "a job", "scaling": {"workers": 2}}).model_dump(mode="json")


def add_jobs(store: Store, count: int, *, begin: int = 0) -> None:
    for number in range(begin, begin + count):
        store.add(
            JobRow(
                id=f"job_{number:012d}",
                name=f"job {number} é \N{SNOWMAN}",
                kind="train",
                owner="ada",
                spec=SPEC,
                spec_version=3,
                priority=0,
                state=State.QUEUED,
                desired=Desired.RUN,
            )
        )


def rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All rows as this release reads them, by table."""
    with database.read() as session:
        return {
            name: [tuple(row) for row in session.execute(table.select().order_by(*table.primary_key))]
            for name, table in Base.metadata.tables.items()
        }


@pytest.fixture
def store(database_url: str) -> Any:
    made = Store(database_url, webhook_urls=["http://receiver.invalid/"])
    made.migrate()
    yield made
    made.close()


def test_a_snapshot_has_all_rows(store: Store, tmp_path: Path) -> None:
    add_jobs(store, 3)
    before = rows(store.database)
    assert take_snapshot(store.database, tmp_path / "copy.db") == store.database.revision()
    copy = sqlite_database(tmp_path / "copy.db")
    assert rows(copy) == before
    assert len(before["jobs"]) == len(before["events"]) == len(before["deliveries"]) == 3
    copy.close()


def test_ids_are_not_given_out_again(store: Store, tmp_path: Path) -> None:
    """A client's last event may be gone; the next one must have a larger number."""
    add_jobs(store, 3)
    with store.database.write() as session:
        session.execute(text("DELETE FROM events"))
    take_snapshot(store.database, tmp_path / "copy.db")
    copy = Store(str(sqlite_database(tmp_path / "copy.db").url))
    add_jobs(copy, 1, begin=9)
    assert [event.id for event in copy.events()] == [4]
    copy.close()


def test_a_snapshot_is_of_one_moment_while_jobs_arrive(store: Store, tmp_path: Path) -> None:
    """Each job has its event in the same transaction: a copy has both or neither."""
    counts = "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM events)"
    stop = threading.Event()

    def submit() -> None:
        number = 0
        while not stop.is_set():
            add_jobs(store, 1, begin=number)
            number += 1

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        found = []
        for number in range(3):
            take_snapshot(store.database, tmp_path / f"{number}.db")
            with closing(sqlite3.connect(tmp_path / f"{number}.db")) as copy:
                found.append(copy.execute(counts).fetchone())
    finally:
        stop.set()
        thread.join()
    assert all(jobs == events for jobs, events in found)
    assert found[0] < found[-1], "the writer went on"


def test_a_snapshot_loads_into_postgresql(store: Store, tmp_path: Path, postgresql: Any) -> None:
    add_jobs(store, 3)
    with store.database.write() as session:
        session.execute(text("DELETE FROM events"))
    before = rows(store.database)
    take_snapshot(store.database, tmp_path / "copy.db")
    target = Store(postgresql.new_database())
    with loaded_into(target.database, tmp_path / "copy.db"):
        pass
    assert rows(target.database) == before
    add_jobs(target, 1, begin=9)
    assert [event.id for event in target.events()] == [4]
    with pytest.raises(BackupError, match="has tables already"), loaded_into(target.database, tmp_path / "copy.db"):
        pass
    target.close()


def test_what_fails_meanwhile_leaves_postgresql_empty(tmp_path: Path, postgresql: Any) -> None:
    source = sqlite_database(tmp_path / "copy.db")
    source.migrate()
    source.close()
    target = Database(postgresql.new_database())
    with pytest.raises(KeyError), loaded_into(target, tmp_path / "copy.db"):
        raise KeyError
    assert target.revision() is None
    target.close()


def test_a_damaged_json_is_carried_over_and_harms_nobody(tmp_path: Path, postgresql: Any) -> None:
    source = Store(f"sqlite:///{tmp_path / 'jobs.db'}")
    source.migrate()
    add_jobs(source, 2)
    with source.database.write() as session:
        session.execute(text("UPDATE jobs SET spec = '{damaged' WHERE number = 1"))
    source.close()
    target = Store(postgresql.new_database())
    with loaded_into(target.database, tmp_path / "jobs.db"):
        pass
    assert [row.spec for row in target.page()[0]] == [SPEC, {}]
    target.close()


def test_a_row_that_postgresql_does_not_take_is_told_by_its_table(tmp_path: Path, postgresql: Any) -> None:
    source = Store(f"sqlite:///{tmp_path / 'jobs.db'}")
    source.migrate()
    add_jobs(source, 1)
    with source.database.write() as session:
        session.execute(text("UPDATE jobs SET owner = 'secret' || char(0)"))
    source.close()
    target = Database(postgresql.new_database())
    with pytest.raises(BackupError) as caught, loaded_into(target, tmp_path / "jobs.db"):
        pass
    assert "table jobs" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert target.revision() is None
    target.close()


def test_a_database_without_tables_is_refused(database_url: str, tmp_path: Path) -> None:
    database = Database(database_url)
    with pytest.raises(BackupError, match="no tables yet"):
        take_snapshot(database, tmp_path / "copy.db")
    database.close()


def test_a_database_of_a_newer_release_is_refused(store: Store, tmp_path: Path) -> None:
    with store.database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(NewerDatabaseError, match="'9999'"):
        take_snapshot(store.database, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_a_snapshot_of_an_older_release_is_brought_up_to_date(tmp_path: Path) -> None:
    old = sqlite_database(tmp_path / "jobs.db")
    old.migrate("0003")
    take_snapshot(old, tmp_path / "copy.db")
    old.close()
    assert adopt(tmp_path / "copy.db", "0003", "ada", "/home/lab", {"archive": "a.tar"}) == 0
    copy = sqlite_database(tmp_path / "copy.db")
    ((_, _, who, _, address, action, target, _, changed),) = rows(copy)["audit"]
    assert (who, address, action, target, changed) == (
        *("ada", "command line", "seqae restore", "/home/lab"),
        {"archive": "a.tar"},
    )
    copy.close()
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name and "-" not in path.name] == ["copy.db"]


@pytest.mark.parametrize(("content", "said"), [(b"no database" * 500, "not a database"), (b"", "not those of")])
def test_a_snapshot_that_is_no_database_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "jobs.db").write_bytes(content)
    with pytest.raises(BackupError, match=said):
        adopt(tmp_path / "jobs.db", "0005", "", "/home", {})
