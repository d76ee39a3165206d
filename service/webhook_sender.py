"""Webhook sender: posts transitions of jobs to other systems, signed as Standard Webhooks says.

Deliveries are written to the outbox in the transaction of the transition, and sent from there until they arrive: at
least once, so receivers should drop an id that they have seen. A delivery is a POST of JSON with these headers
(https://www.standardwebhooks.com), which any library for Standard Webhooks verifies:

    webhook-id: id of the event; the same in each try
    webhook-timestamp: seconds since 1970 at this try
    webhook-signature: v1,<HMAC-SHA256 of "<id>.<timestamp>.<body>" in base64>
"""

import binascii
import logging
from collections.abc import Callable, Collection
from contextlib import closing

import httpx
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from jobs.periodic_thread import PeriodicThread
from service.backoff import exponential_backoff
from service.db.outbox import Delivery, Outbox
from service.upstream.addresses import Network, is_allowed, resolve_host

__all__ = ["InternalAddressError", "WebhookSender", "make_signer"]

log = logging.getLogger(__name__)

_FIRST_WAIT = 5.0
_LONGEST_WAIT = 3600.0
_MOST_TRIES = 20
"""With waits that double up to an hour: more than half a day."""

_BASE64_PREFIX = "whsec_"


def make_signer(secret: str) -> Webhook:
    """Signs deliveries, and verifies them on the receiver's side.

    Args:
        secret: shared with the receiver: a key in base64 after `whsec_`, as the scheme writes it, or any other text,
            whose bytes in UTF-8 are the key.

    Raises:
        ValueError: the secret is empty, or not in base64 after its prefix.
    """
    try:
        return Webhook(secret if secret.startswith(_BASE64_PREFIX) else secret.encode())
    except (binascii.Error, EmptyWebhookSecretError) as error:
        raise ValueError(f"the webhook secret can't be used: {error}") from error


class WebhookSender:
    """Sends what is in the outbox. Safe to run in several processes.

    Args:
        outbox: of the job database whose transitions are sent.
        secret: signs the deliveries, see `make_signer`.
        timeout: seconds that a receiver has.
        transport: for tests.
        networks: of receivers that are not on the public internet.
        resolve: addresses of a host and port; raises OSError.
    """

    def __init__(
        self,
        outbox: Outbox,
        secret: str,
        timeout: float = 10.0,
        transport: httpx.BaseTransport | None = None,
        networks: Collection[Network] = (),
        resolve: Callable[[str, int], list[str]] = resolve_host,
    ) -> None:
        self._outbox = outbox
        self._signer = make_signer(secret)
        self._thread: PeriodicThread | None = None
        self._http = _new_client(timeout, transport)
        self._networks = networks
        self._resolve = resolve

    def start(self, every: float = 1.0) -> None:
        """Starts sending in a thread of its own, which looks for due deliveries every so many seconds."""
        self._thread = PeriodicThread("webhooks", every, self._send_all_due)
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Stops after the delivery in progress, which is waited for this many seconds."""
        if self._thread is not None:
            self._thread.stop(timeout)
        self._http.close()

    def send_due(self, most: int = 20) -> int:
        """Sends deliveries that are due, oldest first; says how many it tried."""
        deliveries = self._outbox.take_due(most)
        for delivery in deliveries:
            error = self._send(delivery)
            if error is None:
                self._outbox.mark_delivered(delivery)
                continue
            tries = delivery.tries + 1
            log.warning("webhook %s, event %d, try %d: %s", _receiver(delivery.url), delivery.event_id, tries, error)
            wait = exponential_backoff(tries, _FIRST_WAIT, _LONGEST_WAIT)
            self._outbox.mark_failed(delivery, error, wait, give_up=tries >= _MOST_TRIES)
        return len(deliveries)

    def _send_all_due(self) -> None:
        """One round: until nothing is due. Where it fails, the outbox keeps what is not sent for the next one."""
        while self.send_due() and not (self._thread is not None and self._thread.is_stopping):
            continue

    def _send(self, delivery: Delivery) -> str | None:
        """Why it did not arrive; None when it did."""
        now, message_id = self._outbox.now(), str(delivery.event_id)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(message_id, now, delivery.body),
        }
        try:
            url = httpx.URL(delivery.url)
            # Connected to by the address that was looked at: a name may lead elsewhere when it is asked again.
            address = self._public_address(url)
            request = self._http.build_request(
                "POST",
                url.copy_with(host=address),
                content=delivery.body.encode(),
                headers=headers | {"Host": url.netloc.decode("ascii")},
                extensions={"sni_hostname": url.host},
            )
            with closing(self._http.send(request, stream=True)) as response:
                # Whatever a receiver answers besides its status, and however much of it, is not looked at.
                return None if response.is_success else f"answered {response.status_code}"
        except httpx.InvalidURL:
            # What it says would quote the address.
            return "InvalidURL"
        except InternalAddressError as error:
            return str(error)
        except OSError as error:
            return f"its name has no address: {error.strerror or type(error).__name__}"
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"

    def _public_address(self, url: httpx.URL) -> str:
        """An address of a receiver; none of its addresses is of the inside.

        Raises:
            InternalAddressError: one of them is.
            OSError: it has none.
        """
        found = self._resolve(url.host, url.port or (443 if url.scheme == "https" else 80))
        if not found:
            raise OSError("no address")
        for address in found:
            if not is_allowed(address, self._networks):
                raise InternalAddressError("an address of the inside, which no network of SEQAE_WEBHOOK_NETWORKS has")
        return found[0]


class InternalAddressError(Exception):
    """A receiver's name leads to an address of the inside."""


def _receiver(url: str) -> str:
    """Scheme and host of a receiver: what may be logged of its URL. Passwords, queries and often paths are secrets."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return "(no URL)"
    return f"{parts.scheme}://{parts.netloc.decode('ascii')}"


def _new_client(timeout: float, transport: httpx.BaseTransport | None) -> httpx.Client:
    """A client that goes through the environment's proxy, if it has one that can be used."""
    try:
        return httpx.Client(timeout=timeout, transport=transport, follow_redirects=False)
    except (ImportError, ValueError) as error:
        log.warning("the environment's proxy can't be used, so webhooks go without it: %s", error)
        return httpx.Client(timeout=timeout, transport=transport, follow_redirects=False, trust_env=False)
