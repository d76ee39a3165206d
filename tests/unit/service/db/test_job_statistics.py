"""Aggregates over the jobs, of which there may be many."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from jobs.directory.records import Phase, Progress
from service.db.job_statistics import MOST_OWNERS, OTHER_OWNERS, job_statistics
from service.db.models import JobRow
from service.db.store import Store
from service.job_state import Desired, State

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/jobs.db")
    store.migrate()
    yield store
    store.close()


def row(number: int, state: State, owner: str, **columns: Any) -> dict[str, Any]:
    times = dict.fromkeys(("created_at", "queued_at", "updated_at", "state_since"), NOW - timedelta(seconds=number))
    usual = {"id": f"job_{number}", "name": "n", "kind": "train", "owner": owner, "spec": {}, "state": state}
    return {**usual, "desired": Desired.RUN, "progress": None, **times, **columns}


def fill(store: Store, rows: list[dict[str, Any]]) -> None:
    with store.database.write() as session:
        session.execute(insert(JobRow), rows)


def progress(speed: float | None) -> Progress:
    return Progress(time=0.0, last_progress_at=0.0, phase=Phase.TRAINING, images_per_second=speed)


def test_an_empty_database_has_a_zero_for_each_state(store: Store) -> None:
    found = job_statistics(store.database)
    assert found.by_state == dict.fromkeys(State, 0)
    assert (found.by_owner, found.queued_since) == ({}, {})
    assert (found.oldest_queued, found.images_per_second) == (None, 0.0)


def test_jobs_are_counted_by_state_and_live_ones_by_owner(store: Store) -> None:
    fill(
        store,
        [
            row(1, State.QUEUED, "ada"),
            row(2, State.QUEUED, "ada"),
            row(3, State.RUNNING, "bob", progress=progress(10.0)),
            row(4, State.RUNNING, "bob", progress=progress(None)),
            row(5, State.RUNNING, "ada", progress=progress(2.5)),
            row(6, State.PAUSED, "ada", progress=progress(99.0)),
            row(7, State.SUCCEEDED, "ada", progress=progress(99.0)),
        ],
    )
    found = job_statistics(store.database)
    assert {state: number for state, number in found.by_state.items() if number} == {
        State.QUEUED: 2,
        State.RUNNING: 3,
        State.PAUSED: 1,
        State.SUCCEEDED: 1,
    }
    assert found.by_owner == {
        ("ada", State.QUEUED): 2,
        ("ada", State.RUNNING): 1,
        ("ada", State.PAUSED): 1,
        ("bob", State.RUNNING): 2,
    }
    assert found.oldest_queued == NOW - timedelta(seconds=2)
    assert found.queued_since == {"ada": NOW - timedelta(seconds=2)}
    assert found.images_per_second == 12.5


def test_ten_thousand_jobs_of_as_many_owners_are_few_numbers_and_soon_counted(store: Store) -> None:
    rows = [row(number, State.QUEUED, f"owner-{number}") for number in range(9_950)]
    rows += [row(number, State.RUNNING, "most", progress=progress(1.0)) for number in range(9_950, 10_000)]
    fill(store, rows)
    started = time.process_time()
    found = job_statistics(store.database)
    seconds = time.process_time() - started
    assert len({owner for owner, _ in found.by_owner}) == MOST_OWNERS + 1
    assert found.by_owner["most", State.RUNNING] == 50
    assert found.by_owner[OTHER_OWNERS, State.QUEUED] == 9_950 - (MOST_OWNERS - 1)
    assert sum(found.by_owner.values()) == 10_000
    assert seconds < 1.0  # 0.02 s of the processor were seen; the bound is for a busy machine
