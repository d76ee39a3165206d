"""ASGI middleware that answers HEAD like GET, and adds the headers by which browsers protect their users."""

import anyio
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import SECURITY_HEADERS

__all__ = ["HeadRequests", "SecurityHeaders"]

_NOTHING = SECURITY_HEADERS["Content-Security-Policy"]
_POLICIES = {
    "/": f"{_NOTHING}; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'",
    # FastAPI makes this page, with a script in it.
    "/docs": f"{_NOTHING}; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'",
}
"""Content security policies of pages, by path; other answers are data, which may do nothing."""


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
                await send(message)
            elif not answered:
                answered = True
                await send({"type": "http.response.body", "body": b""})
                if message.get("more_body", False):
                    whole.cancel()

        with anyio.CancelScope() as whole:
            await self._app({**scope, "method": "GET"}, receive, without_body)
