"""Authentication: who makes a request, by the token in its header or in the page's cookie.

The page keeps its token in a cookie that scripts can't read (HttpOnly), which no request begun by another site carries
(SameSite=Strict), and which the browser forgets when it ends. A page's storage would be open to each script of the
origin, which MLflow's pages share, and pictures and links could not be asked for with it.
"""

import time
from collections.abc import Callable
from typing import Protocol

import anyio.to_thread
from starlette.requests import HTTPConnection

from service.api.access.principal import Principal
from service.db.access.tokens import TOKEN_PREFIX, Tokens, hash_secret
from service.db.models import TokenRow
from service.errors import UnauthorizedError
from service.scopes import parse_scopes

__all__ = ["COOKIE", "Authenticator", "WebTokens"]

COOKIE = "seqae_token"

_BELIEVED_SECONDS = 2.0
"""A token that was looked up is believed for so long: one that another process revokes ends that much later."""

_MOST_BELIEVED = 1000
_UNKNOWN = "the token is not known, has expired, or was revoked"


class WebTokens(Protocol):
    """Checks tokens of an identity provider."""

    def principal(self, token: str) -> Principal:
        """Who comes with a token. Raises: UnauthorizedError, IdentityProviderError."""


class Authenticator:
    """Finds out who makes a request. Used in the event loop alone.

    Args:
        tokens: of the job database.
        is_restricted: whether owners see their own jobs alone.
        web_tokens: of an identity provider, if there is one.
        clock: in seconds.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        is_restricted: bool = False,
        web_tokens: WebTokens | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self._is_restricted = is_restricted
        self._web_tokens = web_tokens
        self._clock = clock
        self._believed: dict[str, tuple[TokenRow, float]] = {}

    async def identify(self, request: HTTPConnection) -> Principal:
        """Who makes a request.

        Raises:
            UnauthorizedError: it has no token, or one that can't be used.
            StoreUnavailableError: the database does not answer.
            IdentityProviderError: the identity provider does not answer.
        """
        secret = _secret_of(request)
        if not secret:
            raise UnauthorizedError("this needs a token: `Authorization: Bearer ...`")
        return await self.identify_secret(secret)

    async def identify_secret(self, secret: str) -> Principal:
        """Who comes with a secret. Raises as `identify` does."""
        if self._web_tokens is not None and not secret.startswith(TOKEN_PREFIX):
            return await anyio.to_thread.run_sync(self._web_tokens.principal, secret)
        hashed = hash_secret(secret)
        if hashed is None:
            raise UnauthorizedError(_UNKNOWN)
        row, until = self._believed.get(hashed, (None, 0.0))
        if row is None or self._clock() > until:
            row = await anyio.to_thread.run_sync(self._look_up, secret)
            if len(self._believed) >= _MOST_BELIEVED:
                self._believed.clear()
            self._believed[hashed] = (row, self._clock() + _BELIEVED_SECONDS)
        if row.expires_at is not None and row.expires_at <= self._tokens.now():
            raise UnauthorizedError(_UNKNOWN)
        return Principal(row.owner, parse_scopes(row.scopes.split()), row.id, self._is_restricted)

    def forget(self) -> None:
        """Looks every token up again: one of them was revoked."""
        self._believed.clear()

    def _look_up(self, secret: str) -> TokenRow:
        row = self._tokens.find(secret)
        if row is None or row.revoked_at is not None:
            raise UnauthorizedError(_UNKNOWN)
        self._tokens.touch(row)
        return row


def _secret_of(request: HTTPConnection) -> str:
    """The secret of a request: of its header, else of the page's cookie."""
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    if kind:
        return secret.strip() if kind.lower() == "bearer" else ""
    return request.cookies.get(COOKIE, "")
