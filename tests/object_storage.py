"""S3 server for tests (moto), whose answers can be delayed, refused, cut off or lost after the work was done."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

__all__ = ["BUCKET", "Fault", "S3Server", "running_s3"]

BUCKET = "bucket"

_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}


class Fault(StrEnum):
    """What happens to a request."""

    BUSY = "busy"
    """It is answered 503, and nothing is done."""
    SILENCE = "silence"
    """It is not answered, and nothing is done."""
    SLOW = "slow"
    """It is done and answered, after a while."""
    LOST_ANSWER = "lost answer"
    """It is done, and the connection is closed without an answer."""
    CUT = "cut"
    """It is done, and the connection is closed after half of the answer's content."""
    FORBIDDEN = "forbidden"
    """It is answered 403, with a secret in the text."""


@dataclass
class S3Server:
    """Address of the server, and what goes wrong with the next requests."""

    url: str = ""
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    """Method and fault: the first that fits a request is taken out and happens to it."""
    silence: float = 2.0
    """Seconds that SILENCE lasts."""
    requests: int = 0
    """So many came in."""
    is_down: bool = False
    """Every request is answered 503."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which clients find the server."""
        return {**_CREDENTIALS, "AWS_ENDPOINT_URL": self.url}

    def fail(self, method: str, *faults: Fault) -> None:
        """Lets the next requests of a method meet these faults, one each."""
        self.faults += [(method, fault) for fault in faults]

    def next_fault(self, method: str) -> Fault | None:
        """Takes out the fault for a request."""
        if self.is_down:
            return Fault.BUSY
        for index, (wanted, fault) in enumerate(self.faults):
            if wanted == method:
                del self.faults[index]
                return fault
        return None


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server with one empty bucket, in a thread."""
    # It would log each request.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    state = S3Server()
    moto = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, _Faulty(moto, state), threaded=True)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        _make_bucket(state)
        yield state
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def _make_bucket(state: S3Server) -> None:
    import httpx

    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=test-key/20260101/us-east-1/s3/aws4_request"}
    httpx.post(f"{state.url}/moto-api/reset", trust_env=False).raise_for_status()
    httpx.put(f"{state.url}/{BUCKET}", headers=headers, trust_env=False).raise_for_status()


class _Faulty:
    """Middleware that lets requests meet faults."""

    def __init__(self, app: Callable[..., Iterable[bytes]], state: S3Server) -> None:
        self._app = app
        self._state = state

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._state.requests += 1
        fault = self._state.next_fault(environ["REQUEST_METHOD"])
        match fault:
            case None:
                return self._app(environ, start_response)
            case Fault.BUSY:
                _skip_body(environ)
                start_response("503 Slow Down", [("Content-Length", "0")])
                return []
            case Fault.FORBIDDEN:
                _skip_body(environ)
                body = b"<Error><Code>AccessDenied</Code><Message>test-secret</Message></Error>"
                start_response("403 Forbidden", [("Content-Length", str(len(body)))])
                return [body]
            case Fault.SILENCE:
                time.sleep(self._state.silence)
                return _hang_up(environ)
            case Fault.SLOW:
                time.sleep(0.3)
                return self._app(environ, start_response)
            case Fault.LOST_ANSWER:
                for _ in self._app(environ, lambda *_: _ignore):
                    pass
                return _hang_up(environ)
            case Fault.CUT:
                body = b"".join(self._app(environ, start_response))
                return _cut(environ, body)


def _skip_body(environ: WSGIEnvironment) -> None:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def _ignore(_: bytes) -> None:
    return None


def _hang_up(environ: WSGIEnvironment) -> Iterable[bytes]:
    import socket

    connection: Any = environ["werkzeug.socket"]
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionError("the test closes the connection")


def _cut(environ: WSGIEnvironment, body: bytes) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    yield from _hang_up(environ)
