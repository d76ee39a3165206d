"""Limits of request bodies: size, time, and memory of all together."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.unit.service.conftest import MakeApp, Serve


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _connect(stack: ExitStack, client: httpx.Client) -> socket.socket:
    address = (client.base_url.host, client.base_url.port or 80)
    return stack.enter_context(socket.create_connection(address, timeout=20))


def _begin(stack: ExitStack, client: httpx.Client, method: str, path: str, length: int, body: bytes) -> socket.socket:
    """Sends a request's head, and a part of its body."""
    connection = _connect(stack, client)
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}"
    connection.sendall(f"{head}\r\n\r\n".encode() + body)
    return connection


def _answer(connection: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    received = b""
    while piece := connection.recv(65_536):
        received += piece
    return received


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/jobs"), ("POST", "/jobs:validate"), ("POST", "/reconstruct"), ("PATCH", "/jobs/job_1")],
)
def test_a_body_that_never_ends_is_given_up(
    make_app: MakeApp, serve: Serve, sockets: ExitStack, method: str, path: str
) -> None:
    """E3: each route that reads a body has the time limit."""
    client = serve(make_app(body_timeout=0.5))
    connection = _begin(sockets, client, method, path, 1000, b'{"name"')
    begun = time.monotonic()
    answer = _answer(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"urn:seqae:problem:slow-body" in answer
    assert time.monotonic() - begun < 10


def test_a_body_that_trickles_is_given_up_at_the_same_time(make_app: MakeApp, serve: Serve, sockets: ExitStack) -> None:
    """E3: the limit is for the whole body, and a byte now and then does not make it longer."""
    client = serve(make_app(body_timeout=1.0))
    connection = _begin(sockets, client, "POST", "/jobs", 1000, b"{")
    connection.settimeout(0.1)
    begun, answer = time.monotonic(), b""
    while not answer:
        assert time.monotonic() - begun < 10
        connection.sendall(b" ")
        try:
            answer = connection.recv(65_536)
        except TimeoutError:
            continue
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - begun > 0.9


def test_slow_uploads_keep_nobody_out(make_app: MakeApp, serve: Serve, sockets: ExitStack) -> None:
    """E3: what counts is requests whose body has arrived; 100 that have not yet change nothing for others."""
    client = serve(make_app(inference_queue=2))
    slow = [_begin(sockets, client, "POST", "/reconstruct", 1_000_000, b'{"image": "') for _ in range(100)]
    answer = client.post("/reconstruct", json={"image": "bm90IGFuIGltYWdl"})
    assert answer.status_code == 422, answer.text
    assert client.post("/jobs", json={"name": "a"}).status_code == 201
    assert all(connection.fileno() > 0 for connection in slow)


def test_bodies_hold_no_more_memory_than_they_may(make_app: MakeApp, serve: Serve, sockets: ExitStack) -> None:
    """E3: large bodies that wait together are bounded; small ones always get in, and what is over is given back."""
    client = serve(make_app(max_held_bytes=1_000_000, max_spec_bytes=10_000))
    part = b'{"image": "' + b"A" * 400_000
    held = [_begin(sockets, client, "POST", "/reconstruct", 900_000, part) for _ in range(2)]
    deadline = time.monotonic() + 20
    while (answer := client.post("/reconstruct", json={"image": "A" * 400_000})).status_code != 503:
        assert time.monotonic() < deadline, "the two have arrived"
    assert "retry-after" in answer.headers
    assert client.post("/jobs", json={"name": "a"}).status_code == 201
    for connection in held:
        connection.close()
    while client.post("/reconstruct", json={"image": "A" * 400_000}).status_code == 503:
        assert time.monotonic() < deadline, "the memory is free again"
