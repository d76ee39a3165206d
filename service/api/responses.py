"""ASGI middleware that answers HEAD like GET, measures answers, and adds headers by which browsers protect users."""

import time

import anyio
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import SECURITY_HEADERS
from service.metrics.instruments import Metrics

__all__ = ["HeadRequests", "RequestMetrics", "SecurityHeaders"]

_NOTHING = SECURITY_HEADERS["Content-Security-Policy"]
_PAGE = f"{_NOTHING}; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'"
_POLICIES = {
    "/": _PAGE,
    "/compare": _PAGE,
    # FastAPI makes this page, with a script in it.
    "/docs": f"{_NOTHING}; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'",
}
"""Content security policies of pages, by path; other answers are data, which may do nothing."""


_NO_ROUTE = "(none)"
"""Stands for addresses that no route has, and for requests that were refused before one was looked for."""

_UNANSWERED = "none"
"""Stands for the status of a request whose client left before the answer."""


class SecurityHeaders:
    """ASGI middleware that adds security headers to each answer.

    Args:
        app: whose answers get them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and adds to the answer what it does not have."""

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", _POLICIES.get(scope["path"], _NOTHING))
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, protected if scope["type"] == "http" else send)


class HeadRequests:
    """ASGI middleware that answers HEAD as GET, without the body; a stream ends at once.

    Args:
        app: whose routes know GET alone.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on; HEAD as GET."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        answered = False

        async def without_body(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                if "route" in inner:
                    scope["route"] = inner["route"]  # for those outside, who see this scope and not its copy
                await send(message)
            elif not answered:
                answered = True
                await send({"type": "http.response.body", "body": b""})
                if message.get("more_body", False):
                    whole.cancel()

        inner = {**scope, "method": "GET"}
        with anyio.CancelScope() as whole:
            await self._app(inner, receive, without_body)


class RequestMetrics:
    """ASGI middleware that measures the time from each request to the head of its answer.

    Requests are told apart by the template of their route: addresses are the clients' own, and there is no end of them.
    The body is not waited for, as a stream of events lasts for as long as its job.

    Args:
        app: whose answers are measured.
        metrics: where to.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._seconds = metrics.http_request_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and measures it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, measured = time.monotonic(), False

        async def watched(message: Message) -> None:
            nonlocal measured
            if message["type"] == "http.response.start" and not measured:
                measured = True
                self._observe(scope, str(message["status"]), started)
            await send(message)

        status = _UNANSWERED
        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = "500"  # which the server answers outside of every middleware
            raise
        finally:
            if not measured:
                self._observe(scope, status, started)

    def _observe(self, scope: Scope, status: str, started: float) -> None:
        template = getattr(scope.get("route"), "path", None)
        route = template if isinstance(template, str) else _NO_ROUTE
        self._seconds.labels(route, status).observe(time.monotonic() - started)
