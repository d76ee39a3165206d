"""ASGI middleware that lets a request reach its route only with what the route declares that it needs.

It stands before everything that reads a body: a stranger's is never read.
"""

import logging
import time

import anyio
import anyio.to_thread
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seqae.errors import Error
from service.api.access.authentication import Authenticator
from service.api.access.principal import ANONYMOUS, OPEN, Principal, set_principal
from service.api.access.rate_limit import RateLimit
from service.api.access.route_table import DeclaredRoute, RouteTable
from service.api.problems import describe, render, retry_headers
from service.db.audit import current_actor
from service.db.queries import Queries
from service.errors import ForbiddenError, JobNotFoundError, RateLimitError, UnauthorizedError
from service.scopes import Scope as AccessScope

__all__ = ["AccessControl", "address_of"]

_log = logging.getLogger(__name__)

_FAILURES_A_SECOND = 10.0
_FAILURES_AT_ONCE = 100.0
_CHECK_STREAMS_EVERY = 30.0


class AccessControl:
    """ASGI middleware that answers 401 to strangers, 403 to whom a route is not for, and 429 to whom asks too often.

    Args:
        app: what it guards.
        table: of the routes.
        authenticator: finds out who asks; None: tokens are off, and nobody is refused.
        jobs: tells whose a job is.
        rate: requests of an owner a second; 0: no limit.
        burst: requests of an owner at once.
    """

    def __init__(
        self,
        app: ASGIApp,
        table: RouteTable,
        authenticator: Authenticator | None,
        jobs: Queries,
        *,
        rate: float,
        burst: float,
    ) -> None:
        self._app = app
        self._table = table
        self._authenticator = authenticator
        self._jobs = jobs
        self._requests = RateLimit(rate, burst)
        self._failures = RateLimit(_FAILURES_A_SECOND, _FAILURES_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, once it is known who makes it and that they may."""
        if scope["type"] != "http" or self._authenticator is None:
            set_principal(scope, OPEN)
            await self._app(scope, receive, send)
            return
        try:
            principal = await self._admit(scope, self._authenticator)
        except Error as error:
            problem = describe(scope["path"], error)
            headers = retry_headers(problem.status)
            if isinstance(error, UnauthorizedError):
                headers["WWW-Authenticate"] = "Bearer"
            await render(problem, headers)(scope, receive, send)
            return
        set_principal(scope, principal)
        if principal is ANONYMOUS:
            await self._app(scope, receive, send)
        else:
            await self._pass_while_valid(scope, receive, send, self._authenticator)

    async def _admit(self, scope: Scope, authenticator: Authenticator) -> Principal:
        route, parameters = self._table.find(scope)
        address = address_of(scope)
        if route is not None and route.scope is None:
            if scope["method"] not in ("GET", "HEAD") and not self._failures.take(address):
                raise RateLimitError("too many requests from this address")
            return ANONYMOUS
        if not self._failures.has_room(address):
            raise RateLimitError("too many requests from this address had no token that is known")
        try:
            principal = await authenticator.identify(HTTPConnection(scope))
        except UnauthorizedError:
            self._failures.take(address)
            raise
        actor = current_actor.get()
        if actor is not None:
            actor.who, actor.token_id = principal.owner or "", principal.token_id
        if not self._requests.take(principal.owner or ""):
            raise RateLimitError("you ask more often than one owner may")
        wanted = AccessScope.READ if route is None or route.scope is None else route.scope
        if not principal.may(wanted):
            raise ForbiddenError(f"this needs a token with the scope `{wanted}`")
        if route is not None and "job_id" in parameters:
            await self._check_job(principal, route, parameters["job_id"])
        return principal

    async def _check_job(self, principal: Principal, route: DeclaredRoute, job_id: str) -> None:
        """Refuses a change of somebody else's job, and a look at one where each sees their own alone."""
        is_write = route.scope is not AccessScope.READ
        if principal.may(AccessScope.ADMIN) or not (is_write or principal.is_restricted):
            return
        owner = await anyio.to_thread.run_sync(self._jobs.owner_of, job_id)
        if owner is None or owner == principal.owner:
            return
        if principal.is_restricted:
            raise JobNotFoundError(f"there is no job {job_id}")
        raise ForbiddenError("this job is somebody else's: its owner or an admin may change it")

    async def _pass_while_valid(self, scope: Scope, receive: Receive, send: Send, authenticator: Authenticator) -> None:
        """Passes a request on; an answer that goes on and on ends soon after its token does."""
        checked_at = time.monotonic()

        async def checked(message: Message) -> None:
            nonlocal checked_at
            more = message["type"] == "http.response.body" and message.get("more_body", False)
            if more and time.monotonic() - checked_at > _CHECK_STREAMS_EVERY:
                try:
                    await authenticator.identify(HTTPConnection(scope))
                except UnauthorizedError:
                    await send({"type": "http.response.body", "body": b""})
                    whole.cancel()
                    return
                except Error as error:
                    # An outage says nothing about the token, which is looked up again later.
                    _log.warning("a stream's token can't be checked: %s", error)
                checked_at = time.monotonic()
            await send(message)

        with anyio.CancelScope() as whole:
            await self._app(scope, receive, checked)


def address_of(scope: Scope) -> str:
    """Address of the client, without its port."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"
