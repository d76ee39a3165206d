"""ASGI middleware that writes into the audit log what requests change, and what they are refused to."""

import logging
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any

import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seqae.errors import Error
from service.api.access.access_control import address_of
from service.api.access.principal import principal_of
from service.api.access.rate_limit import RateLimit
from service.api.access.route_table import RouteTable
from service.db.audit import Actor, AuditLog, current_actor

__all__ = ["AuditTrail"]

_log = logging.getLogger(__name__)

_STRANGERS_A_SECOND = 0.5
_STRANGERS_AT_ONCE = 60.0
"""Refused requests of nobody that is known leave no more rows: they must not push the others out."""


class AuditTrail:
    """ASGI middleware that leaves a row for each request to a route which changes something.

    It stands outside of all that may refuse a request.

    Args:
        app: whose requests are written down.
        table: of the routes.
        log: where the rows go.
    """

    def __init__(self, app: ASGIApp, table: RouteTable, log: AuditLog) -> None:
        self._app = app
        self._table = table
        self._log = log
        self._strangers = RateLimit(_STRANGERS_A_SECOND, _STRANGERS_AT_ONCE)
        self._left_out = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and writes down what came of it, unless it only reads."""
        route = self._table.write(scope) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        actor = Actor(address_of(scope), f"{scope['method']} {route.path}", scope["path"])
        answer: MutableMapping[str, Any] = {}

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
            await send(message)

        reset = current_actor.set(actor)
        try:
            await self._app(scope, receive, noted)
        finally:
            current_actor.reset(reset)
            await self._write(actor, principal_of(scope).owner, int(answer.get("status", 0)))

    async def _write(self, actor: Actor, owner: str | None, status: int) -> None:
        is_refused = status >= HTTPStatus.BAD_REQUEST
        if actor.recorded and not is_refused:
            return
        changed: dict[str, Any] = {}
        if is_refused and not actor.who and not owner:
            if not self._strangers.take(""):
                self._left_out += 1
                return
            changed, self._left_out = ({"left_out": self._left_out} if self._left_out else {}), 0
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._log.add, actor, status, changed)
        except Error as error:
            _log.error("the audit log has no row of %s by %r (%d): %s", actor.action, actor.who, status, error)
