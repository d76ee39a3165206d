"""HTTP requests as values, and a sender that judges the answer: server error, hang, or neither."""

import re
import time
from dataclasses import dataclass, field
from enum import StrEnum

import httpx

__all__ = ["HANG_SECONDS", "Call", "Outcome", "Sender", "Verdict", "judge"]

HANG_SECONDS = 10.0
"""A request that is not answered within this time hangs."""

_STREAMED = re.compile(r"/jobs/[^/]+/(events|logs)$")
_JSON_AT_503 = "/readyz"


class Verdict(StrEnum):
    """What became of a case."""

    FINE = "fine"
    SERVER_ERROR = "server error"
    HANG = "hang"
    NOT_SENT = "not sent"
    """The HTTP client refuses to send such a request: it does not count."""


@dataclass(frozen=True)
class Call:
    """A request."""

    method: str
    url: str
    """Path and query, percent-encoded."""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True)
class Outcome:
    """The verdict on a case."""

    verdict: Verdict
    status: int | None = None
    detail: str = ""
    seconds: float = 0.0
    case: str = field(default="", repr=False)
    """The case in one line, for whoever repeats it."""


def judge(status: int, path: str, media_type: str) -> Verdict:
    """Whether an answer is a server error: any 5xx, but for the 503 that the reference documents.

    Args:
        status: of the answer.
        path: of the request, without its query.
        media_type: of the answer.
    """
    documented = media_type.startswith("application/problem+json") or path == _JSON_AT_503
    return Verdict.SERVER_ERROR if status >= 500 and not (status == 503 and documented) else Verdict.FINE


class Sender:
    """Sends calls to one server, one after the other.

    Args:
        base_url: of the server.
    """

    def __init__(self, base_url: str) -> None:
        self._client = httpx.Client(base_url=base_url, timeout=HANG_SECONDS, trust_env=False, follow_redirects=False)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def send(self, call: Call) -> Outcome:
        """Sends one call and reads its answer; of an endless stream no more than its head."""
        began = time.monotonic()
        line = f"{call.method} {call.url} {call.body[:200]!r}"
        try:
            request = self._client.build_request(call.method, call.url, headers=list(call.headers), content=call.body)
            response = self._client.send(request, stream=True)
        except (httpx.InvalidURL, httpx.LocalProtocolError, httpx.UnsupportedProtocol, ValueError) as error:
            return Outcome(Verdict.NOT_SENT, detail=str(error), case=line)
        except httpx.TimeoutException:
            return Outcome(Verdict.HANG, detail="no answer", seconds=time.monotonic() - began, case=line)
        except httpx.TransportError:
            # The server may close the connection on a request that it can't read.
            return Outcome(Verdict.FINE, detail="closed", seconds=time.monotonic() - began, case=line)
        try:
            verdict, detail = self._read(response, began)
        finally:
            response.close()
        return Outcome(verdict, response.status_code, detail, time.monotonic() - began, line)

    def _read(self, response: httpx.Response, began: float) -> tuple[Verdict, str]:
        path = response.request.url.path
        verdict = judge(response.status_code, path, response.headers.get("content-type", ""))
        body = b""
        if response.is_success and _STREAMED.search(path):
            return verdict, ""
        try:
            for piece in response.iter_raw():
                body += piece[: 1000 - len(body)] if len(body) < 1000 else b""
                if time.monotonic() - began > HANG_SECONDS:
                    return Verdict.HANG, "the answer does not end"
        except httpx.TimeoutException:
            return Verdict.HANG, "the answer stands still"
        except httpx.TransportError as error:
            # Cut off within an answer that had begun: the server failed while it wrote.
            return Verdict.SERVER_ERROR, f"cut off: {error}"
        return verdict, body[:300].decode("utf-8", "replace") if verdict is Verdict.SERVER_ERROR else ""
