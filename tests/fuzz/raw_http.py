"""Odd HTTP over raw sockets: what no client library sends, from half a request to smuggling."""

import random
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.fuzz.calls import HANG_SECONDS, Outcome, Verdict, judge

__all__ = ["RawRequest", "raw_requests", "send_raw"]

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[^\r\n]*\r\n(.*?)\r\n\r\n", re.DOTALL)
_TYPE = re.compile(rb"^content-type: *([^\r\n]+)", re.IGNORECASE | re.MULTILINE)
_QUIET_SECONDS = 0.05
_PATIENCE_SECONDS = 0.5
_WHOLE = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@dataclass(frozen=True)
class RawRequest:
    """Bytes for a connection."""

    content: bytes
    pieces: int = 1
    """Sent in so many parts."""
    complete: bool = False
    """It is a whole request, so it must be answered; any other may be met with a closed connection."""


def raw_requests(rng: random.Random) -> Iterator[RawRequest]:
    """Endless requests.

    Args:
        rng: makes them.
    """
    while True:
        content = rng.choice(_MADE)(rng) if rng.random() < 0.5 else rng.choice(_FIXED)
        if rng.random() < 0.2:
            content = _damaged(rng, content)
        yield RawRequest(content, rng.choice((1, 1, 2, 7)), complete=content == _WHOLE)


def send_raw(port: int, request: RawRequest) -> Outcome:
    """Sends bytes over a connection of their own, says that no more come, and reads what is answered.

    Args:
        port: of the server on this machine.
        request: what is sent.
    """
    began = time.monotonic()
    case = f"raw {request.content[:300]!r}"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS) as connection:
            _send(connection, request)
            answer = _read(connection, began, request.complete)
    except TimeoutError:
        return Outcome(Verdict.HANG, detail="no answer", seconds=time.monotonic() - began, case=case)
    except OSError as error:
        answer = b""
        if request.complete:
            return Outcome(Verdict.SERVER_ERROR, detail=f"closed: {error}", case=case)
    seconds = time.monotonic() - began
    statuses = [(int(found[1]), _TYPE.search(found[2])) for found in _STATUS.finditer(answer)]
    for status, media_type in statuses:
        verdict = judge(status, "", media_type[1].decode("latin-1") if media_type else "")
        if verdict is not Verdict.FINE:
            return Outcome(verdict, status, answer[:300].decode("latin-1"), seconds, case)
    if request.complete and not statuses:
        return Outcome(Verdict.SERVER_ERROR, detail="no answer to a whole request", seconds=seconds, case=case)
    return Outcome(Verdict.FINE, statuses[0][0] if statuses else None, "", seconds, case)


def _send(connection: socket.socket, request: RawRequest) -> None:
    size = max(1, len(request.content) // request.pieces)
    for at in range(0, len(request.content), size):
        connection.sendall(request.content[at : at + size])


def _read(connection: socket.socket, began: float, complete: bool) -> bytes:
    """What is answered until the server closes, or is quiet after a whole head.

    Raises:
        TimeoutError: neither happens in time.
    """
    answer, is_open = b"", not complete
    while True:
        left = HANG_SECONDS - (time.monotonic() - began)
        if left <= 0:
            raise TimeoutError
        answered = _STATUS.search(answer) is not None
        connection.settimeout(_QUIET_SECONDS if answered else _PATIENCE_SECONDS if is_open else left)
        try:
            piece = connection.recv(65_536)
        except TimeoutError:
            if answered:
                return answer
            if is_open:
                # The server may wait for the rest of half a request: there is none.
                connection.shutdown(socket.SHUT_WR)
                is_open = False
            continue
        if not piece:
            return answer
        answer = (answer + piece)[-200_000:]


def _damaged(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


# --- made by chance


def _head(lines: str, body: bytes = b"", target: str = "POST /jobs") -> bytes:
    return f"{target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode("latin-1") + body


def _wrong_length(rng: random.Random) -> bytes:
    length = rng.choice(("-1", "+5", "0x5", "5, 5", "5, 6", "", "1e3", "99999999999999999999", "5000000", "1"))
    return _head(f"Content-Type: application/json\r\nContent-Length: {length}\r\n", b'{"name": "a"}')


def _chunks(rng: random.Random) -> bytes:
    size = rng.choice(("d", "D", "0xd", "-1", "ffffffffffffffff", "d;ext=1", "", "g", "00000000d", "3"))
    end = rng.choice((b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"", b"0\r\n"))
    body = size.encode() + b'\r\n{"name": "a"}\r\n' + end
    return _head("Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n", body)


def _smuggled(rng: random.Random) -> bytes:
    coding = rng.choice(
        ("chunked", "Chunked", "gzip, chunked", "identity", "chunked, chunked", "xchunked", "\x0bchunked")
    )
    return _head(f"Content-Length: 4\r\nTransfer-Encoding: {coding}\r\n", b"0\r\n\r\n" + _WHOLE)


def _target(rng: random.Random) -> bytes:
    target = rng.choice(
        (
            "/jobs/%", "/jobs/%ff%fe", "/jobs/%00", "//jobs", "/./jobs", "/../../etc/passwd", "/jobs?limit=%zz", "*",
            "http://evil.example/jobs", "jobs", "/jobs#x", "/" + "a" * 9000, "/jobs?" + "state=QUEUED&" * 900,
            "/static-offline-docs/../../../etc/passwd", "/jobs\t", "/jobs /x", "/jobs/%2e%2e%2f", "/?" + "&" * 5000,
            "/jobs/\xff", "/docs/..%5c", "/openapi.json", "/docs",
        )
    )  # fmt: skip
    method = rng.choice(
        ("GET", "POST", "HEAD", "OPTIONS", "TRACE", "CONNECT", "DELETE", "get", "PROPFIND", "G\x00T", "A" * 300)
    )
    return _head("", target=f"{method} {target}")


def _headers(rng: random.Random) -> bytes:
    lines = rng.choice(
        (
            "X: " + "a" * 70_000 + "\r\n", "X: y\r\n" * 1000, "X : y\r\n", " folded\r\n", "X\r\n", ": y\r\n",
            "X: \x00\r\n",
            "Host: other\r\n", "Host: \r\n", "X: \xff\xfe\r\n", "Last-Event-ID: x\r\n", "Accept: */*;q=nan\r\n",
            "Range: bytes=0-5,99-\r\n", "Expect: 100-continue\r\n", "Expect: x\r\n",
            "Connection: upgrade\r\nUpgrade: h2c\r\n",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\nSec-WebSocket-Version: 13\r\n",
            "Content-Encoding: gzip\r\n", "Origin: http://evil.example\r\n", "If-None-Match: *\r\n",
            "Content-Type: multipart/form-data\r\nContent-Length: 0\r\n", "Cookie: " + "a=b; " * 500 + "\r\n",
            "Content-Type: application/json; charset=utf-7\r\nContent-Length: 2\r\n", "Accept-Encoding: gzip;q=x\r\n",
        )
    )  # fmt: skip
    path = rng.choice(("/jobs", "/reconstruct", "/healthz", "/models", "/docs", "/jobs/job_000000000001/events", "/"))
    return _head(lines, target=f"{rng.choice(('GET', 'POST'))} {path}")


def _noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randint(1, 400))


def _pipelined(rng: random.Random) -> bytes:
    return _WHOLE * rng.randint(2, 20) + rng.choice((b"", b"GET", b"\r\n\r\n", b"\x16\x03\x01"))


_MADE = (_wrong_length, _chunks, _smuggled, _target, _headers, _noise, _pipelined)
_FIXED = (
    _WHOLE,
    b"\r\n",
    b"\x00",
    b"GET",
    b"GET / HTTP/1.1",
    b"GET /\r\n\r\n",
    b"GET / HTTP/0.9\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GET / HTTPS/1.1\r\nHost: a\r\n\r\n",
    b"GET  /  HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /jobs HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    b"POST /reconstruct HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    b"Content-Length: 9\r\n\r\n--x\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
)  # fmt: skip
