"""Tells other systems of transitions. Deliveries are written to the outbox with the transition itself, and sent from
there until they arrive: at least once, so receivers should drop an event id that they have seen.

A delivery is a POST of JSON with these headers:

    Seqae-Event: id of the event
    Seqae-Signature: t=<seconds since 1970>,v1=<HMAC-SHA256 of "<t>.<body>" in hex>
"""

import hashlib
import hmac
import logging
import threading
from datetime import timedelta

import httpx
from sqlalchemy import select, update

from service.db.models import DeliveryRow
from service.db.store import Store

__all__ = ["WebhookSender", "is_genuine", "signature"]

log = logging.getLogger(__name__)

_LEASE = timedelta(seconds=60)
"""A process that took deliveries and died leaves them to others after so long."""

_FIRST_WAIT = 5.0
_LONGEST_WAIT = 3600.0
_MOST_TRIES = 20
"""With waits that double up to an hour: more than half a day."""


def signature(secret: str, at: int, body: str) -> str:
    """The value of the Seqae-Signature header.

    Args:
        secret: shared with the receiver.
        at: when it is sent, seconds since 1970.
        body: exactly as sent.
    """
    digest = hmac.new(secret.encode(), f"{at}.{body}".encode(), hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def is_genuine(secret: str, header: str, body: str, now: float, tolerance: float = 300.0) -> bool:
    """Whether a delivery was signed with the secret, and lately: what a receiver checks.

    Args:
        secret: shared with the sender.
        header: the value of the Seqae-Signature header.
        body: as received.
        now: the receiver's time, seconds since 1970.
        tolerance: oldest signature that counts, in seconds; older ones may be replays.
    """
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    at = parts.get("t", "")
    if not at.isdecimal() or abs(now - int(at)) > tolerance:
        return False
    return hmac.compare_digest(signature(secret, int(at), body), header)


class WebhookSender:
    """Sends what is in the outbox. Safe to run in several processes.

    Args:
        store: the job database, whose `webhook_urls` fill the outbox.
        secret: signs the deliveries.
        timeout: seconds that a receiver has.
        transport: for tests.
    """

    def __init__(
        self, store: Store, secret: str, timeout: float = 10.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._store = store
        self._secret = secret
        self._http = httpx.Client(timeout=timeout, transport=transport, follow_redirects=False)
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, every: float = 1.0) -> None:
        """Starts sending in a thread of its own."""

        def loop() -> None:
            while not self._end.is_set():
                try:
                    while self.send_due() and not self._end.is_set():
                        continue
                except Exception:
                    # The database may be down; whatever it is, the outbox keeps what is not sent.
                    log.exception("webhooks: this round failed; the next one comes")
                self._end.wait(every)

        self._thread = threading.Thread(target=loop, name="webhooks", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Stops after the delivery in progress."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout)
        self._http.close()

    def send_due(self, most: int = 20) -> int:
        """Sends deliveries that are due, oldest first; says how many it tried."""
        rows = self._take(most)
        for row in rows:
            self._settle(row, self._send(row))
        return len(rows)

    def _take(self, most: int) -> list[DeliveryRow]:
        now = self._store.now()
        due = (DeliveryRow.done.is_(False), DeliveryRow.next_at <= now)
        with self._store.database.read() as session:
            if session.scalar(select(DeliveryRow.id).where(*due).limit(1)) is None:
                return []
        with self._store.database.write() as session:
            rows = list(session.scalars(select(DeliveryRow).where(*due).order_by(DeliveryRow.id).limit(most)))
            ids = [row.id for row in rows]
            statement = update(DeliveryRow).where(DeliveryRow.id.in_(ids)).values(next_at=now + _LEASE)
            session.execute(statement.execution_options(synchronize_session=False))
            return rows

    def _send(self, row: DeliveryRow) -> str | None:
        """Why it did not arrive; None when it did."""
        at = int(self._store.now().timestamp())
        headers = {
            "Content-Type": "application/json",
            "Seqae-Event": str(row.event_id),
            "Seqae-Signature": signature(self._secret, at, row.body),
        }
        try:
            response = self._http.post(row.url, content=row.body.encode(), headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{type(error).__name__}: {error}"
        return None if response.is_success else f"answered {response.status_code}"

    def _settle(self, row: DeliveryRow, error: str | None) -> None:
        now, tries = self._store.now(), row.tries + 1
        if error is None:
            values = {"done": True, "delivered_at": now, "error": None, "tries": tries}
        else:
            wait = min(_FIRST_WAIT * 2.0 ** (tries - 1), _LONGEST_WAIT)
            given_up = tries >= _MOST_TRIES
            values = {"done": given_up, "next_at": now + timedelta(seconds=wait), "error": error[:1000], "tries": tries}
            log.warning("webhook %s, event %d, try %d: %s", row.url, row.event_id, tries, error)
        with self._store.database.write() as session:
            statement = update(DeliveryRow).where(DeliveryRow.id == row.id).values(**values)
            session.execute(statement.execution_options(synchronize_session=False))
