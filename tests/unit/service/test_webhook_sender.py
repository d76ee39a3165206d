"""Deliveries to a receiver in memory, on SQLite and on PostgreSQL alike."""

import base64
import ipaddress
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NotRequired, TypedDict

import httpx
import pytest
from sqlalchemy import select
from standardwebhooks import Webhook, WebhookVerificationError

from service.db.models import DeliveryRow, JobRow
from service.db.outbox import Outbox
from service.db.store import Store, new_job_id
from service.job_state import Desired, State
from service.upstream.addresses import is_allowed
from service.webhook_sender import WebhookSender, make_signer


class TransitionData(TypedDict):
    """What an event of a transition says."""

    to: str
    attempt: NotRequired[int]


class Body(TypedDict):
    """What a receiver gets."""

    id: int
    type: str
    job: dict[str, str]
    data: TransitionData


class Receiver:
    """Checks signatures, and answers what the test tells it to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.status = 200
        self.bodies: list[Body] = []
        self.urls: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        text, headers = request.content.decode(), request.headers
        body: Body = json.loads(text)
        assert headers["webhook-id"] == str(body["id"])
        assert headers["webhook-timestamp"] == str(int(self.now.timestamp()))
        assert headers["webhook-signature"] == Webhook(b"secret").sign(str(body["id"]), self.now, text)
        assert headers["content-type"] == "application/json"
        self.bodies.append(body)
        assert request.url.host == "93.184.216.34", "connected to by the address that was looked at"
        assert request.extensions["sni_hostname"] == headers["host"].partition(":")[0]
        self.urls.append(f"{request.url.scheme}://{headers['host']}{request.url.path}")
        if self.status == 0:
            raise httpx.ConnectError("nobody there")
        # Where a redirect leads is not followed: the body is for this receiver only.
        return httpx.Response(self.status, headers={"location": "http://elsewhere/hook"})


def public(_host: str, _port: int) -> list[str]:
    """Addresses of any name."""
    return ["93.184.216.34"]


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
    made = WebhookSender(outbox_of(store), "secret", transport=httpx.MockTransport(receiver), resolve=public)
    yield made
    made.stop()


def outbox_of(store: Store) -> Outbox:
    return Outbox(store.database, store.now)


def a_cancelled_job(store: Store) -> str:
    row = JobRow(id=new_job_id(), name="a", kind="train", owner="ann", spec={}, priority=0)
    row.state, row.desired = State.QUEUED, Desired.RUN
    store.transition(store.add(row)[0], State.CANCELLED)
    return row.id


def test_transitions_arrive_signed_and_in_order(store: Store, webhooks: WebhookSender, receiver: Receiver) -> None:
    job_id = a_cancelled_job(store)
    assert webhooks.send_due() == 2
    assert [body["data"]["to"] for body in receiver.bodies] == ["QUEUED", "CANCELLED"]
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
    assert set(receiver.urls) == {"http://receiver/hook"}


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
    assert len(outbox_of(store).take_due(10)) == 2  # and the process is killed here
    assert webhooks.send_due() == 0
    receiver.now += timedelta(seconds=61)
    assert webhooks.send_due() == 2


def test_the_thread_sends_by_itself(store: Store, webhooks: WebhookSender, receiver: Receiver) -> None:
    a_cancelled_job(store)
    webhooks.start(every=0.01)
    deadline = datetime.now(UTC) + timedelta(seconds=10)
    while len(receiver.bodies) < 2 and datetime.now(UTC) < deadline:
        time.sleep(0.01)
    assert len(receiver.bodies) == 2


SECRETS = {
    "secret": b"secret",
    "whsec_" + base64.b64encode(b"0123456789abcdefghijklmn").decode(): b"0123456789abcdefghijklmn",
    "not base64 \u2014 \u00e9": "not base64 \u2014 \u00e9".encode(),
}


@pytest.mark.parametrize("secret", SECRETS)
def test_a_receiver_verifies_deliveries_with_the_key_and_notices_forgeries(database_url: str, secret: str) -> None:
    received: list[tuple[str, dict[str, str]]] = []

    def receive(request: httpx.Request) -> httpx.Response:
        received.append((request.content.decode(), dict(request.headers)))
        return httpx.Response(204)

    store = Store(database_url, webhook_urls=("http://one/hook", "http://two/hook"))
    store.migrate()
    sender = WebhookSender(outbox_of(store), secret, transport=httpx.MockTransport(receive), resolve=public)
    try:
        a_cancelled_job(store)
        assert sender.send_due() == 4
    finally:
        sender.stop()
        store.close()

    ids = [headers["webhook-id"] for _, headers in received]
    assert ids == [str(json.loads(body)["id"]) for body, _ in received], "the event's, the same for each receiver"
    body, headers = received[0]
    key = Webhook(SECRETS[secret])
    assert key.verify(body, headers) == json.loads(body)
    forgeries = [
        (key, body.replace("QUEUED", "FAILED"), headers),
        (key, body, {**headers, "webhook-id": ids[-1]}),
        (key, body, {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}),
        (Webhook(b"another"), body, headers),
    ]
    for receiver, text, given in forgeries:
        with pytest.raises(WebhookVerificationError):
            receiver.verify(text, given)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_a"])
def test_a_secret_without_a_key_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="webhook secret"):
        make_signer(secret)


@pytest.mark.parametrize("status", [0, 500])
def test_secrets_in_a_receivers_url_are_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """E5: passwords, queries, and the tokens that some services put into the path."""
    url = "https://ann:passw0rd@hooks.example:8443/T0KEN/path?key=s3cret#part"
    receiver = Receiver()
    receiver.status = status
    store = Store(f"sqlite:///{tmp_path}/jobs.db", webhook_urls=(url,), clock=lambda: receiver.now)
    store.migrate()
    sender = WebhookSender(outbox_of(store), "secret", transport=httpx.MockTransport(receiver), resolve=public)
    a_cancelled_job(store)
    assert sender.send_due() == 2
    sender.stop()
    store.close()
    assert receiver.urls, "it was sent to the whole URL"
    assert "https://hooks.example:8443" in caplog.text
    assert not [secret for secret in ("ann", "passw0rd", "T0KEN", "s3cret", "part") if secret in caplog.text]


def test_a_url_that_is_none_is_not_quoted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """E5: also where the library would quote it in its error."""
    store = Store(f"sqlite:///{tmp_path}/jobs.db", webhook_urls=("http://hooks.example:s3cret/",))
    store.migrate()
    sender = WebhookSender(outbox_of(store), "secret")
    a_cancelled_job(store)
    assert sender.send_due() == 2
    sender.stop()
    store.close()
    assert "InvalidURL" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_proxy_that_can_not_be_used_keeps_nothing_from_starting(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """B9: the library for it may not be installed."""
    monkeypatch.setenv("ALL_PROXY", "strange://127.0.0.1:9")
    WebhookSender(outbox_of(store), "secret").stop()
    assert "proxy can't be used" in caplog.text


INTERNAL = [
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:127.0.0.1"),
    *("::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "not an address", ""),
]


@pytest.mark.parametrize("address", INTERNAL)
def test_addresses_of_the_inside_are_known_in_any_spelling(address: str) -> None:
    assert not is_allowed(address, ())


def test_public_addresses_and_those_of_the_settings_are_allowed() -> None:
    assert is_allowed("93.184.216.34", ())
    assert is_allowed("2606:2800:220:1::1", ())
    networks = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("::1/128")]
    assert is_allowed("10.1.2.3", networks)
    assert is_allowed("::ffff:10.1.2.3", networks)
    assert is_allowed("::1", networks)
    assert not is_allowed("10.2.0.1", networks)


@pytest.mark.parametrize("found", [["127.0.0.1"], ["93.184.216.34", "169.254.169.254"], ["::1"], []])
def test_nothing_is_sent_to_the_inside(store: Store, caplog: pytest.LogCaptureFixture, found: list[str]) -> None:
    """SSRF: one address of the inside is enough to refuse a name that has several."""
    sent: list[str] = []

    def receive(request: httpx.Request) -> httpx.Response:
        sent.append(str(request.url))
        return httpx.Response(204)

    a_cancelled_job(store)
    sender = WebhookSender(
        outbox_of(store), "secret", transport=httpx.MockTransport(receive), resolve=lambda _host, _port: found
    )
    assert sender.send_due() == 2
    sender.stop()
    assert sent == []
    assert ("SEQAE_WEBHOOK_NETWORKS" if found else "no address") in caplog.text


def test_a_name_is_asked_once_and_may_not_change_its_mind(store: Store) -> None:
    """DNS rebinding: the second answer would be of the inside."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    sent: list[tuple[str, str]] = []

    def receive(request: httpx.Request) -> httpx.Response:
        sent.append((request.url.host, request.headers["host"]))
        return httpx.Response(302, headers={"location": "http://127.0.0.1/"})

    a_cancelled_job(store)
    transport = httpx.MockTransport(receive)
    sender = WebhookSender(outbox_of(store), "secret", transport=transport, resolve=lambda _host, _port: next(answers))
    assert sender.send_due() == 2
    sender.stop()
    assert sent == [("93.184.216.34", "receiver")]


def test_slack_and_discord_show_what_happened_and_call_nobody(store: Store) -> None:
    row = JobRow(id=new_job_id(), name="<!channel> @everyone &", kind="train", owner="ann", spec={}, priority=0)
    row.state, row.desired = State.QUEUED, Desired.RUN
    store.add(row)
    (delivery,) = outbox_of(store).take_due(1)
    body = json.loads(delivery.body)
    assert body["text"] == f"&lt;!channel&gt; @everyone &amp; ({row.id}) is QUEUED: submitted"
    assert body["content"].startswith("<!channel> @everyone & (")
    assert body["allowed_mentions"] == {"parse": []}
