"""Leases: what happens to one that was not renewed in time."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from service.db.leases import Leases
from service.db.models import JobRow
from service.db.store import Store, new_job_id
from service.job_state import Desired, State


class _Clock:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def store(database_url: str, clock: _Clock) -> Iterator[Store]:
    made = Store(database_url, clock=clock)
    made.migrate()
    yield made
    made.close()


def _admit_one(store: Store) -> str:
    job_id = new_job_id()
    store.add(JobRow(id=job_id, name="a", kind="train", spec={}, state=State.QUEUED, desired=Desired.RUN))
    store.admit(lambda _, queue: queue)
    return job_id


def test_a_lease_that_has_run_out_is_not_renewed(store: Store, clock: _Clock) -> None:
    """A process that hung for longer than its lease must not take the row back from whoever may claim it now."""
    job_id = _admit_one(store)
    mine = Leases(store, "me")
    [claimed] = mine.claim(15, limit=1)
    clock.now += timedelta(seconds=16)
    mine.renew(15)
    assert store.job(job_id).lease_expires == claimed.lease_expires
    assert [job.id for job in Leases(store, "other").claim(15, limit=1)] == [job_id]


def test_a_lease_in_use_is_renewed(store: Store, clock: _Clock) -> None:
    job_id = _admit_one(store)
    mine = Leases(store, "me")
    assert mine.claim(15, limit=1) != []
    clock.now += timedelta(seconds=10)
    mine.renew(15)
    assert store.job(job_id).lease_expires == clock.now + timedelta(seconds=15)
    assert Leases(store, "other").claim(15, limit=1) == []


def test_a_lease_taken_before_the_clock_was_set_back_is_free(store: Store, clock: _Clock) -> None:
    """B7: it would have been held for as long as the clock was set back."""
    job_id = _admit_one(store)
    Leases(store, "old").claim(15, limit=1)
    clock.now -= timedelta(hours=1)
    assert [job.id for job in Leases(store, "new").claim(15, limit=1)] == [job_id]
    clock.now -= timedelta(seconds=30)
    assert Leases(store, "third").claim(15, limit=1) == [], "clocks of machines may be a minute apart"


def test_a_wait_that_no_wait_can_be_is_over(store: Store, clock: _Clock) -> None:
    """B7: `not_before` an hour ahead, though nothing waits for so long."""
    job_id = _admit_one(store)
    mine = Leases(store, "me", longest_wait=600)
    [job] = mine.claim(15, limit=1)
    mine.release(job, look_again_in=300)
    assert mine.claim(15, limit=1) == []
    clock.now -= timedelta(hours=1)
    [again] = mine.claim(15, limit=1)
    assert again.id == job_id
    assert again.state_since == clock.now, "what is counted from there begins anew"


def test_work_for_all_is_not_held_in_the_future(store: Store, clock: _Clock) -> None:
    """B7."""
    assert Leases(store, "old").hold("sweep", 30)
    clock.now -= timedelta(hours=1)
    assert Leases(store, "new").hold("sweep", 30)


def test_a_job_queued_in_the_future_waits_from_now_on(store: Store, clock: _Clock) -> None:
    """B7: its scheduling deadline would have come later by as much."""
    job_id = new_job_id()
    store.add(JobRow(id=job_id, name="a", kind="train", spec={}, state=State.QUEUED, desired=Desired.RUN))
    clock.now -= timedelta(hours=1)
    store.correct_queue_times()
    assert store.job(job_id).queued_at == clock.now
