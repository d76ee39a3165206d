"""ASGI middleware that limits the size of request bodies.

A body that declares its length is refused before it is read, any other while it comes in.
"""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seqae.errors import Error
from service.api.problems import describe, render
from service.errors import BodyTooLargeError, MediaTypeError

__all__ = ["BodyLimit"]

_DRAIN_SECONDS = 5.0
_DRAIN_BYTES = 100_000_000


class BodyLimit:
    """ASGI middleware that answers 413 to bodies over a limit, and 415 to compressed ones.

    Args:
        app: what it guards.
        default: most bytes of a body.
        exceptions: other limits, by exact path.
    """

    def __init__(self, app: ASGIApp, default: int, exceptions: dict[str, int]) -> None:
        self._app = app
        self._default = default
        self._exceptions = exceptions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, as long as its body is small enough."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._exceptions.get(scope["path"], self._default)
        error = BodyTooLargeError(f"the body is larger than {limit:,} bytes")
        headers = Headers(scope=scope)
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            compressed = MediaTypeError("the body is compressed (Content-Encoding); send it as it is")
            await _refuse(scope, receive, send, compressed)
            return
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            await _refuse(scope, receive, send, error)
            return
        await self._guard(scope, receive, send, error, limit)

    async def _guard(self, scope: Scope, receive: Receive, send: Send, error: BodyTooLargeError, limit: int) -> None:
        size = 0
        refused = answered = False

        async def counted() -> Message:
            nonlocal size, refused
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit and not answered:
                refused = True
                raise error
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            # What the app makes of the error that it met while reading is replaced by the refusal.
            if not refused:
                answered = True
                await send(message)

        try:
            await self._app(scope, counted, watched)
        except BodyTooLargeError:
            if not refused:
                raise
        if refused:
            await _refuse(scope, receive, send, error)


async def _refuse(scope: Scope, receive: Receive, send: Send, error: Error) -> None:
    response = render(describe(scope["path"], error), {"Connection": "close"})
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    # The answer is out. A connection closed with unread bytes is reset, and the client may lose the answer: so what
    # is still coming is thrown away for a while, unless it is absurd.
    dropped = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while dropped <= _DRAIN_BYTES:
                message = await receive()
                dropped += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    break
    except TimeoutError:
        # A client that is so slow has had time to read the answer.
        pass
    await send({"type": "http.response.body", "body": b""})
