"""HTTP server with limits on time and number of connections.

The limits of `service.api` begin with a request. What comes before one, or stays after it, only the connection knows:
clients that connect and are silent, that send a head or a body byte by byte, or that don't take their answer.
"""

import asyncio
import resource
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from jobs.telemetry.log_records import LogFormat
from service.settings import Settings

__all__ = ["Server", "ServerConfig"]

_GRACE_SECONDS = 10
"""Requests that are still answered after so long are cut when the server stops."""

_IDLE_SECONDS = 60
"""Connections may be idle for so long. Clients should give them up first (httpx does after 5 s): when the server closes
one, it races with the client's next request, which is then lost."""

_BODY_SLACK = 5.0
"""Seconds beyond the time limit of a body, in which the app says so to the client."""

_LARGEST_HEAD = 32_768
"""Bytes of a request's head; also of what a client may send before it is done."""

_OWN_FILES = 256
"""Open files that are no connections: databases, logs, data sets."""

_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n"


class ServerConfig(uvicorn.Config):
    """Configuration of the server from the settings.

    Args:
        app: ASGI app to be served.
        settings: address, port and limits.
    """

    def __init__(self, app: Callable[..., Any], settings: Settings) -> None:
        super().__init__(
            app,
            host=settings.host,
            port=settings.port,
            http=_Connection,
            ws="none",
            timeout_graceful_shutdown=_GRACE_SECONDS,
            timeout_keep_alive=_IDLE_SECONDS,
            h11_max_incomplete_event_size=_LARGEST_HEAD,
            access_log=settings.log_format is LogFormat.JSON,
            log_config=None,
            server_header=False,
        )
        self.settings = settings
        self.max_connections = min(settings.max_connections, _most_files() - _OWN_FILES)


class Server(uvicorn.Server):
    """HTTP server that tells the app when it begins to stop: waiting for the clients of event streams would hold it up.

    Args:
        config: with the app.
        on_stop: called once, in the event loop.
    """

    def __init__(self, config: ServerConfig, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops; requests in progress are answered first."""
        self._on_stop()
        await super().shutdown(sockets)


def _most_files() -> int:
    """Raises this process's limit of open files as far as it may go, and returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
        wanted = max(soft, 8192) if hard == resource.RLIM_INFINITY else max(soft, min(hard, 8192))
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return 2**20 if soft == resource.RLIM_INFINITY else soft


class _Connection(H11Protocol):
    """HTTP/1.1 connection whose client has so long for each head, each body, and for taking an answer."""

    _clock: tuple[object, asyncio.TimerHandle] | None = None
    """What the client is waited for, and when it is given up."""
    _send_clock: asyncio.TimerHandle | None = None
    _since = 0.0
    """When the present wait began, by the event loop's clock."""

    @property
    def _limits(self) -> ServerConfig:
        return cast(ServerConfig, self.config)

    # --- what the event loop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base class
        """Makes room for a connection if there are too many, and waits for the first head."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections and not self._close_another():
            transport.write(_UNAVAILABLE)
            transport.close()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Takes in bytes; a wait that goes on is not made longer by them."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the waits."""
        super().connection_lost(exc)
        self._stop_clocks()

    def pause_writing(self) -> None:
        """Begins to wait for a client that takes less than it is sent."""
        super().pause_writing()
        self._send_clock = self.loop.call_later(self._limits.settings.send_timeout, self._abort)

    def resume_writing(self) -> None:
        """Ends that wait."""
        super().resume_writing()
        if self._send_clock is not None:
            self._send_clock.cancel()
            self._send_clock = None

    # --- what the base class calls

    def on_response_complete(self) -> None:
        """Goes on with what the client has sent meanwhile."""
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answers bytes that are no HTTP; whatever works on the request that they belong to must not answer as well."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self._close()
                return
        super().send_400_response(msg)

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that was idle for too long."""
        super().timeout_keep_alive_handler()
        self._close()

    # --- the waits

    def _watch(self) -> None:
        """Starts the clock of what the client is waited for now, unless it runs already."""
        waited_for, seconds = self._wait()
        if self._clock is not None:
            if self._clock[0] is waited_for:
                return
            self._clock[1].cancel()
            self._clock = None
        self._since = self.loop.time()
        if waited_for is not None:
            self._clock = (waited_for, self.loop.call_later(seconds, self._give_up))

    def _wait(self) -> tuple[object | None, float]:
        """What the client is waited for: its next head (this object), the body of a request (its cycle), or nothing."""
        if self.transport.is_closing():
            return None, 0.0
        if self.conn.their_state is h11.SEND_BODY:
            return self.cycle, self._limits.settings.body_timeout + _BODY_SLACK
        if self._waits_for_head and (self.timeout_keep_alive_task is None or self.conn.trailing_data[0]):
            return self, self._limits.settings.head_timeout
        return None, 0.0

    @property
    def _waits_for_head(self) -> bool:
        return self.conn.their_state is h11.IDLE

    def _give_up(self) -> None:
        if self._waits_for_head and self.conn.trailing_data[0]:
            self.transport.write(_TIMEOUT)
        self._close()

    def _close(self) -> None:
        """Closes the connection, also when the client does not take what is still to be sent."""
        self.transport.close()
        if self._send_clock is None:
            self._send_clock = self.loop.call_later(self._limits.settings.send_timeout, self._abort)

    def _abort(self) -> None:
        """Ends the connection at once; what the client has not taken is dropped, by the kernel as well."""
        found = self.transport.get_extra_info("socket")
        if found is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _stop_clocks(self) -> None:
        for clock in (self._clock[1] if self._clock else None, self._send_clock):
            if clock is not None:
                clock.cancel()
        self._clock = self._send_clock = None

    def _close_another(self) -> bool:
        """Closes the connection that has waited longest for its client; whether there was one."""
        others = [other for other in self.connections if isinstance(other, _Connection) and other is not self]
        idle = [other for other in others if other._waits_for_head]
        slow = [other for other in others if other.conn.their_state is h11.SEND_BODY]
        oldest = min(idle or slow, key=lambda other: other._since, default=None)
        if oldest is None:
            return False
        self.connections.discard(oldest)
        if idle:
            oldest._close()
        else:
            oldest._abort()
        return True
