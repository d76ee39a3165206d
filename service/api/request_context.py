"""ASGI middleware that names each request, so that all log lines about it can be found together."""

import re
from secrets import token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.telemetry.log_records import current_job, current_request
from jobs.telemetry.tracing import Span, Tracing
from service.api.problems import REQUEST_ID_HEADER

__all__ = ["RequestContext"]

_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Ids that are taken from a request; others could be anything, in a log as well."""

_JOB = re.compile(r"/jobs/([A-Za-z0-9-]{1,64})(?:/|$)")


class RequestContext:
    """ASGI middleware that gives each request an id, or keeps the one that a reverse proxy gave it.

    The id is in the log lines that this request leads to, and in the answer's `X-Request-ID`. The context is not put
    back at the end: the server works on each request in a task of its own, and logs an unexpected error there after the
    app has ended.

    Args:
        app: whose requests are named.
        tracing: makes a span of each, below the one that its `traceparent` names.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, with its id and its job's in the context."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if _GIVEN_ID.fullmatch(given) else token_hex(8)
        job = _JOB.match(scope["path"])
        current_request.set(request_id)
        current_job.set(None if job is None else job.group(1))

        status = 500  # which the server answers outside of every middleware

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        parent = Headers(scope=scope).get("traceparent")
        with self._tracing.span(scope["method"], parent=parent, is_server=True) as span:
            try:
                await self._app(scope, receive, named)
            finally:
                self._describe(span, scope, status)

    def _describe(self, span: Span, scope: Scope, status: int) -> None:
        """Names the span by the template of its route: addresses are the clients' own."""
        template = getattr(scope.get("route"), "path", None)
        route = template if isinstance(template, str) else ""
        span.name(f"{scope['method']} {route}".strip())
        span.set("http.request.method", scope["method"])
        span.set("http.route", route)
        span.set("http.response.status_code", status)
