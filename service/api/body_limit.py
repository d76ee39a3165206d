"""ASGI middleware that limits the size of request bodies, the time they take, and the memory they take together.

A body that declares its length is refused before it is read, any other while it comes in.
"""

import asyncio
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seqae.errors import Error
from service.api.problems import describe, render, retry_headers
from service.errors import BodyTooLargeError, MediaTypeError, OverloadedError, SlowBodyError

__all__ = ["BodyLimit"]

_DRAIN_SECONDS = 5.0
_DRAIN_BYTES = 100_000_000


class BodyLimit:
    """ASGI middleware that answers 413 to large bodies, 415 to compressed ones, 408 to slow ones, 503 to one too many.

    Args:
        app: what it guards.
        default: most bytes of a body.
        exceptions: other limits, by exact path, or by the beginning of one where it ends in a slash.
        seconds: a body must have arrived so long after its request's head.
        most_held: most bytes that the bodies of all requests in progress hold together. A request with a body that
            is no larger than `default` is never refused for it.
    """

    def __init__(
        self, app: ASGIApp, default: int, exceptions: Mapping[str, int], seconds: float, most_held: int
    ) -> None:
        self._app = app
        self._default = default
        self._exceptions = exceptions
        self._seconds = seconds
        self._most_held = most_held
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, as long as its body stays within the limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        headers = Headers(scope=scope)
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            compressed = MediaTypeError("the body is compressed (Content-Encoding); send it as it is")
            await _refuse(scope, receive, send, compressed)
            return
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            await _refuse(scope, receive, send, _too_large(limit))
            return
        body = _Body(receive, limit, asyncio.get_running_loop().time() + self._seconds, self._is_overfull)
        try:
            await self._guard(scope, send, body)
        finally:
            self._held -= body.size

    def _limit(self, path: str) -> int:
        below = (most for start, most in self._exceptions.items() if start.endswith("/") and path.startswith(start))
        return self._exceptions.get(path) or next(below, self._default)

    async def _guard(self, scope: Scope, send: Send, body: "_Body") -> None:
        async def watched(message: Message) -> None:
            # What the app makes of the error that it met while reading is replaced by the refusal.
            if body.refusal is None:
                body.answered = True
                await send(message)

        try:
            await self._app(scope, body.receive, watched)
        except Error:
            if body.refusal is None:
                raise
        if body.refusal is not None:
            await _refuse(scope, body.unguarded, send, body.refusal)

    def _is_overfull(self, body: "_Body", added: int) -> bool:
        """Counts bytes that have come in; whether their body is to be given up, since all together hold too many."""
        self._held += added
        return self._held > self._most_held and body.size > self._default


class _Body:
    """One request's body, as it comes in.

    Args:
        receive: gives its pieces.
        limit: most bytes.
        deadline: by the event loop's clock.
        is_overfull: told of each piece, and says whether all bodies together hold too many bytes.
    """

    def __init__(
        self, receive: Receive, limit: int, deadline: float, is_overfull: Callable[["_Body", int], bool]
    ) -> None:
        self.unguarded = receive
        self.size = 0
        self.refusal: Error | None = None
        self.answered = False
        self._limit = limit
        self._deadline = deadline
        self._is_overfull = is_overfull
        self._whole = False

    async def receive(self) -> Message:
        """The next piece.

        Raises:
            Error: it is too large, too slow, or there are too many. Where the answer has begun, the client seems gone.
        """
        if self._whole:
            # What may still come is the client's leaving, for which there is no limit.
            return await self.unguarded()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self.unguarded()
        except TimeoutError:
            return self._refuse(SlowBodyError("the body did not arrive in time"))
        added = len(message.get("body", b""))
        self.size += added
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        if self._is_overfull(self, added):
            return self._refuse(OverloadedError("too many bodies are being received"))
        if self.size > self._limit:
            return self._refuse(_too_large(self._limit))
        return message

    def _refuse(self, error: Error) -> Message:
        if self.answered:
            return {"type": "http.disconnect"}
        self.refusal = error
        raise error


def _too_large(limit: int) -> Error:
    return BodyTooLargeError(f"the body is larger than {limit:,} bytes")


async def _refuse(scope: Scope, receive: Receive, send: Send, error: Error) -> None:
    problem = describe(scope["path"], error)
    response = render(problem, {"Connection": "close", **retry_headers(problem.status)})
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    if isinstance(error, SlowBodyError):
        await send({"type": "http.response.body", "body": response.body})
        return
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
