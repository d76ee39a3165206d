"""Limits of connections, by raw sockets: what is sent slowly, in pieces, or not at all."""

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from starlette.responses import Response

from service.server import ServerConfig
from service.settings import Settings
from tests.unit.service.conftest import MakeApp, Serve

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
BOUND = 15.0
"""Seconds within which each test must see the end of what it waits for; the limits are set to far less."""


@pytest.fixture
def client(make_app: MakeApp, serve: Serve) -> httpx.Client:
    """A client of a server with short limits."""
    return serve(make_app(head_timeout=0.5, body_timeout=0.5, send_timeout=1.0, max_connections=16))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def _connect(stack: ExitStack, client: httpx.Client) -> socket.socket:
    address = (client.base_url.host, client.base_url.port or 80)
    return stack.enter_context(socket.create_connection(address, timeout=BOUND))


def _rest(connection: socket.socket) -> bytes:
    """What the server sends until it closes the connection."""
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def _answer(connection: socket.socket) -> bytes:
    """One answer of `/healthz`, after which the connection stays open."""
    received = b""
    while b'"version"' not in received:
        piece = connection.recv(65_536)
        assert piece, received
        received += piece
    return received


def test_a_silent_connection_is_closed(client: httpx.Client, stack: ExitStack) -> None:
    """E3: nothing was asked, so nothing is answered."""
    connection, begun = _connect(stack, client), time.monotonic()
    assert _rest(connection) == b""
    assert time.monotonic() - begun > 0.4


@pytest.mark.parametrize("sent", [b"G", HEAD[:-2], b"\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_head_that_never_ends_is_given_up(client: httpx.Client, stack: ExitStack, sent: bytes) -> None:
    """E3: also one of which nothing but an empty line has come."""
    connection = _connect(stack, client)
    connection.sendall(sent)
    assert _rest(connection)[:13] == (b"HTTP/1.1 400 " if sent == b"\r\n" else b"HTTP/1.1 408 ")


def _trickle(connection: socket.socket, piece: bytes) -> None:
    """Sends a piece every tenth of a second until the server has had enough."""
    deadline = time.monotonic() + BOUND
    connection.settimeout(0.1)
    while time.monotonic() < deadline:
        try:
            connection.sendall(piece)
            if connection.recv(65_536) == b"":
                return
        except TimeoutError:
            continue
        except OSError:
            return
    pytest.fail("the connection is still open")


def test_a_head_that_trickles_is_given_up(client: httpx.Client, stack: ExitStack) -> None:
    """E3: each byte must not win more time."""
    connection = _connect(stack, client)
    connection.sendall(b"GET / HTTP/1.1\r\nX: ")
    _trickle(connection, b"a")


def test_a_second_head_that_trickles_is_given_up(client: httpx.Client, stack: ExitStack) -> None:
    """E3: after a whole request the same holds as before the first one."""
    connection = _connect(stack, client)
    connection.sendall(HEAD)
    _answer(connection)
    connection.sendall(b"GET / HTTP/1.1\r\nX: ")
    _trickle(connection, b"a")


def test_an_idle_connection_may_be_used_again_later(client: httpx.Client, stack: ExitStack) -> None:
    """E3: the time for a head begins with its first byte: a client may keep a connection in reserve."""
    connection = _connect(stack, client)
    for _ in range(3):
        connection.sendall(HEAD)
        assert b" 200 " in _answer(connection)
        time.sleep(0.7)


@pytest.mark.parametrize("path", [b"/healthz", b"/nothing/here", b"/readyz", b"/jobs"])
def test_a_body_that_no_route_reads_is_given_up(client: httpx.Client, stack: ExitStack, path: bytes) -> None:
    """E3: the answer is out at once, and what was announced never comes."""
    connection = _connect(stack, client)
    connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    assert b"HTTP/1.1 " in _rest(connection)


def test_a_refused_body_that_trickles_is_given_up(client: httpx.Client, stack: ExitStack) -> None:
    """E3: a refusal must not make a connection that lives for ever."""
    connection = _connect(stack, client)
    connection.sendall(b"POST /jobs HTTP/1.1\r\nHost: evil.example\r\nTransfer-Encoding: chunked\r\n\r\n")
    _trickle(connection, b"1\r\na\r\n")


def test_pipelined_requests_are_answered_in_turn(client: httpx.Client, stack: ExitStack) -> None:
    """E3: the clocks of one request are not those of the next."""
    connection = _connect(stack, client)
    connection.sendall(HEAD * 3 + HEAD[:10])
    received = _rest(connection)
    assert received.count(b"HTTP/1.1 200 ") == 3


def test_silent_connections_keep_nobody_out(client: httpx.Client, stack: ExitStack) -> None:
    """E3: over the limit, the one that has waited longest makes room."""
    silent = [_connect(stack, client) for _ in range(60)]
    for _ in range(5):
        assert client.get("/healthz").status_code == 200
    assert len(silent) == 60


def test_slow_bodies_keep_nobody_out_either(make_app: MakeApp, serve: Serve, stack: ExitStack) -> None:
    """E3: when all connections are taken by uploads that don't end, the oldest of them makes room."""
    client = serve(make_app(max_connections=16))
    for _ in range(60):
        connection = _connect(stack, client)
        connection.sendall(b"POST /reconstruct HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    assert client.get("/healthz").status_code == 200


def test_a_client_that_takes_nothing_is_cut_off(make_app: MakeApp, serve: Serve, stack: ExitStack) -> None:
    """E3: what it does not read fills memory here."""
    app = make_app(send_timeout=0.5)
    app.add_api_route("/much", lambda: Response(bytes(50_000_000)))
    client = serve(app)
    connection = _connect(stack, client)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall(b"GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n")
    time.sleep(2)
    assert len(_rest(connection)) < 50_000_000


def test_a_head_that_is_too_large_is_refused(client: httpx.Client, stack: ExitStack) -> None:
    """E3: the head is held in memory until it is whole."""
    connection = _connect(stack, client)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000)
    assert _rest(connection)[:13] in (b"HTTP/1.1 400 ", b"")


def test_connections_leave_room_for_other_files(make_app: MakeApp, settings: Settings) -> None:
    """E3: databases and logs need files as well, however many connections were asked for."""
    config = ServerConfig(make_app(), settings.model_copy(update={"max_connections": 10**9}))
    assert 16 <= config.max_connections < resource.getrlimit(resource.RLIMIT_NOFILE)[0]
