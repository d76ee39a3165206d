"""Absolute paths of a backup that are moved to the new home, and those that are none."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from service.backup.moved_paths import move_to
from service.db.snapshots.snapshot import sqlite_database
from service.errors import BackupError

OLD, NEW = "/srv/old % lab", "/srv/new"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a backup of a home without jobs was unpacked."""
    for name in ("control", "jobs", "mlflow"):
        (tmp_path / name).mkdir()
    database = sqlite_database(tmp_path / "control" / "jobs.db")
    database.migrate()
    database.close()
    return tmp_path


def test_addresses_in_mlflows_database_are_moved(root: Path) -> None:
    """The embedded server writes none with a path; one that was started by hand with a path for artifacts does."""
    addresses = {
        f"{OLD}/mlflow/artifacts/1": f"{NEW}/mlflow/artifacts/1",
        f"file://{OLD}/mlflow/artifacts/2": f"file://{NEW}/mlflow/artifacts/2",
        OLD: NEW,
        "mlflow-artifacts:/3": "mlflow-artifacts:/3",
        f"{OLD}er/4": f"{OLD}er/4",
        f"/elsewhere{OLD}/5": f"/elsewhere{OLD}/5",
    }
    path = root / "mlflow" / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE experiments (name TEXT, artifact_location TEXT)")
        connection.executemany("INSERT INTO experiments VALUES (?, ?)", [(OLD, address) for address in addresses])
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
    move_to(root, OLD, NEW)
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name, artifact_location FROM experiments ORDER BY rowid").fetchall()
    assert found == [(OLD, moved) for moved in addresses.values()]


def test_specs_in_folders_are_moved_at_any_depth(root: Path) -> None:
    trial = root / "jobs" / "job_1" / "trials" / "0"
    trial.mkdir(parents=True)
    spec = {"base": {"data": [{"path": f"{OLD}/x"}, OLD]}, "name": f"of {OLD}/x", f"{OLD}/key": 1}
    (trial / "spec.json").write_text(json.dumps(spec))
    move_to(root, OLD, NEW)
    moved = spec | {"base": {"data": [{"path": f"{NEW}/x"}, NEW]}}
    assert json.loads((trial / "spec.json").read_text()) == moved


@pytest.mark.parametrize("content", [b"{damaged", b"\xff", b"[" * 100_000, b""])
def test_a_damaged_spec_stays_as_it_is(root: Path, content: bytes) -> None:
    folder = root / "jobs" / "job_1"
    folder.mkdir()
    (folder / "spec.json").write_bytes(content)
    move_to(root, OLD, NEW)
    assert (folder / "spec.json").read_bytes() == content


def test_a_damaged_database_is_named(root: Path) -> None:
    (root / "mlflow" / "mlflow.db").write_bytes(b"secret" * 1000)
    with pytest.raises(BackupError) as caught:
        move_to(root, OLD, NEW)
    assert str(caught.value) == "mlflow.db can't be taken over: file is not a database"
