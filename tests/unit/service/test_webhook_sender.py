"""Deliveries to a receiver in memory, on SQLite and on PostgreSQL alike."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import select

from service.db.models import DeliveryRow, JobRow
from service.db.store import Store, new_job_id
from service.job_state import Desired, State
from service.webhook_sender import WebhookSender, is_genuine, signature


class Receiver:
    """Checks signatures, and answers what the test tells it to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.status = 200
        self.bodies: list[dict[str, object]] = []
        self.urls: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = request.content.decode()
        assert is_genuine("secret", request.headers["Seqae-Signature"], body, self.now.timestamp())
        self.bodies.append(json.loads(body))
        self.urls.append(str(request.url))
        assert request.headers["Seqae-Event"] == str(self.bodies[-1]["id"])
        if self.status == 0:
            raise httpx.ConnectError("nobody there")
        return httpx.Response(self.status)


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def store(database_url: str, receiver: Receiver) -> Iterator[Store]:
    made = Store(database_url, webhook_urls=("http://receiver/hook",), clock=lambda: receiver.now)
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def webhooks(store: Store, receiver: Receiver) -> Iterator[WebhookSender]:
    made = WebhookSender(store, "secret", transport=httpx.MockTransport(receiver))
    yield made
    made.stop()


def a_cancelled_job(store: Store) -> str:
    row = JobRow(id=new_job_id(), name="a", kind="train", owner="ann", spec={}, priority=0)
    row.state, row.desired = State.QUEUED, Desired.RUN
    store.transition(store.add(row)[0], State.CANCELLED)
    return row.id


def test_transitions_arrive_signed_and_in_order(store: Store, webhooks: WebhookSender, receiver: Receiver) -> None:
    job_id = a_cancelled_job(store)
    assert webhooks.send_due() == 2
    assert [body["data"]["to"] for body in receiver.bodies] == ["QUEUED", "CANCELLED"]  # type: ignore[index]
    assert receiver.bodies[0]["job"] == {"id": job_id, "name": "a", "kind": "train", "owner": "ann"}
    assert webhooks.send_due() == 0, "each once"


@pytest.mark.parametrize("status", [0, 302, 404, 500])
def test_what_does_not_arrive_is_tried_again_later(
    store: Store, webhooks: WebhookSender, receiver: Receiver, status: int
) -> None:
    a_cancelled_job(store)
    receiver.status = status
    waits = []
    webhooks.send_due()
    for _ in range(3):
        began = receiver.now
        while webhooks.send_due() == 0:
            receiver.now += timedelta(seconds=1)
        waits.append((receiver.now - began).total_seconds())
    assert waits == [5, 10, 20]
    receiver.status = 200
    receiver.now += timedelta(seconds=40)
    assert webhooks.send_due() == 2
    with store.database.read() as session:
        rows = list(session.scalars(select(DeliveryRow)))
    assert [(row.done, row.tries, row.error) for row in rows] == [(True, 5, None)] * 2


def test_a_receiver_that_never_answers_is_given_up(store: Store, webhooks: WebhookSender, receiver: Receiver) -> None:
    a_cancelled_job(store)
    receiver.status = 500
    for _ in range(30):
        webhooks.send_due()
        receiver.now += timedelta(hours=2)
    assert len(receiver.bodies) == 2 * 20


def test_a_sender_that_dies_leaves_its_deliveries_to_others(
    store: Store, webhooks: WebhookSender, receiver: Receiver
) -> None:
    a_cancelled_job(store)
    assert len(webhooks._take(10)) == 2  # and the process is killed here
    assert webhooks.send_due() == 0
    receiver.now += timedelta(seconds=61)
    assert webhooks.send_due() == 2


def test_the_thread_sends_by_itself(store: Store, webhooks: WebhookSender, receiver: Receiver) -> None:
    a_cancelled_job(store)
    webhooks.start(every=0.01)
    deadline = datetime.now(UTC) + timedelta(seconds=10)
    while len(receiver.bodies) < 2 and datetime.now(UTC) < deadline:
        webhooks._end.wait(0.01)
    assert len(receiver.bodies) == 2


def test_forgeries_and_replays_are_told() -> None:
    header = signature("secret", 1000, "body")
    assert is_genuine("secret", header, "body", 1000)
    assert not is_genuine("secret", header, "body!", 1000)
    assert not is_genuine("another", header, "body", 1000)
    assert not is_genuine("secret", header, "body", 1301)
    assert not is_genuine("secret", header.replace("t=1000", "t=1001"), "body", 1000)
    assert not is_genuine("secret", "", "body", 1000)
