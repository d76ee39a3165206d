"""The outbox of webhook deliveries, on SQLite and on PostgreSQL alike."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from service.db.models import DeliveryRow
from service.db.outbox import Delivery, Outbox
from service.db.store import Store

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """Tells the time that the test sets."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[Store]:
    made = Store(database_url, clock=clock)
    made.migrate()
    with made.database.write() as session:
        for number in (1, 2, 3):
            session.add(DeliveryRow(event_id=10 + number, url=f"http://r/{number}", body="{}", next_at=START))
    yield made
    made.close()


@pytest.fixture
def outbox(store: Store, clock: Clock) -> Outbox:
    return Outbox(store.database, clock)


def row(store: Store, event_id: int) -> DeliveryRow:
    with store.database.read() as session:
        return session.scalars(select(DeliveryRow).where(DeliveryRow.event_id == event_id)).one()


def test_due_deliveries_come_oldest_first_and_to_one_process(outbox: Outbox) -> None:
    first, second = outbox.take_due(2)
    assert first == Delivery(first.id, event_id=11, url="http://r/1", body="{}", tries=0)
    assert second.event_id == 12
    assert [delivery.event_id for delivery in outbox.take_due(5)] == [13]
    assert outbox.take_due(5) == []


def test_what_was_taken_and_not_settled_is_due_again_after_the_lease(outbox: Outbox, clock: Clock) -> None:
    outbox.take_due(5)
    clock.now += timedelta(seconds=59)
    assert outbox.take_due(5) == []
    clock.now += timedelta(seconds=1)
    assert len(outbox.take_due(5)) == 3


def test_what_arrived_is_not_taken_again(outbox: Outbox, store: Store, clock: Clock) -> None:
    delivery, *_ = outbox.take_due(5)
    outbox.mark_failed(delivery, "answered 500", 5.0, give_up=False)
    clock.now += timedelta(seconds=5)
    again, *_ = outbox.take_due(1)
    assert (again.id, again.tries) == (delivery.id, 1)
    outbox.mark_delivered(again)
    found = row(store, delivery.event_id)
    assert (found.done, found.tries, found.error, found.delivered_at) == (True, 2, None, clock.now)
    clock.now += timedelta(days=1)
    assert delivery.event_id not in [other.event_id for other in outbox.take_due(5)]


def test_what_failed_is_due_after_its_wait_and_keeps_the_start_of_its_error(
    outbox: Outbox, store: Store, clock: Clock
) -> None:
    for delivery in outbox.take_due(5):
        outbox.mark_failed(delivery, "x" * 5000, 100.0, give_up=False)
    clock.now += timedelta(seconds=99)
    assert outbox.take_due(5) == []
    clock.now += timedelta(seconds=1)
    assert len(outbox.take_due(5)) == 3
    assert row(store, 11).error == "x" * 1000


def test_what_is_given_up_is_not_taken_again_and_has_not_arrived(outbox: Outbox, store: Store, clock: Clock) -> None:
    for delivery in outbox.take_due(5):
        outbox.mark_failed(delivery, "answered 404", 1.0, give_up=True)
    clock.now += timedelta(days=1)
    assert outbox.take_due(5) == []
    found = row(store, 12)
    assert (found.done, found.delivered_at, found.error, found.tries) == (True, None, "answered 404", 1)


def test_deliveries_put_off_before_the_clock_was_set_back_are_due(store: Store, clock: Clock) -> None:
    """B7."""
    outbox = Outbox(store.database, clock)
    for delivery in outbox.take_due(10):
        outbox.mark_failed(delivery, "refused", 3600, give_up=False)
    assert outbox.take_due(10) == []
    clock.now -= timedelta(hours=2)
    assert len(outbox.take_due(10)) == 3
