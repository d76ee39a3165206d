"""Tokens of an identity provider (JWT), checked against the keys that it publishes (JWKS)."""

import logging
import threading
import time
from collections.abc import Callable

import httpx
import jwt
from jwt import PyJWK, PyJWKSet

from service.api.access.principal import Principal
from service.errors import IdentityProviderError, UnauthorizedError
from service.scopes import Scope
from service.settings import Settings

__all__ = ["JwtVerifier"]

_log = logging.getLogger(__name__)

_TIMEOUT = 5.0
_MOST_BYTES = 200_000
_FRESH_SECONDS = 600.0
"""Keys are asked for again after so long, so that one which was withdrawn counts no longer."""

_STALE_SECONDS = 3600.0
"""While the provider does not answer, its keys count for so long."""

_REST_SECONDS = 10.0
"""Wait between two requests for the keys: tokens that name keys of no one must not make us ask at each."""

_LEEWAY = 30.0
_MOST_OWNER = 200
_INVALID = "the token of the identity provider can't be used: its signature, times, issuer or audience are wrong"


class JwtVerifier:
    """Checks tokens of one identity provider. Safe to use in several threads.

    Args:
        settings: the provider's keys, and what its claims mean.
        transport: for tests.
        clock: in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str, PyJWK] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None

    def principal(self, token: str) -> Principal:
        """Who comes with a token.

        Raises:
            UnauthorizedError: it is not the provider's, not for this service, or has expired.
            IdentityProviderError: its key is not known, and the provider does not answer.
        """
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in settings.jwt_algorithms:
                raise UnauthorizedError(_INVALID)
            key = self._key(header.get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=list(settings.jwt_algorithms),
                audience=settings.jwt_audience,
                issuer=settings.jwt_issuer,
                leeway=_LEEWAY,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, ValueError) as error:
            raise UnauthorizedError(_INVALID) from error
        owner = claims.get(settings.jwt_owner_claim)
        if not isinstance(owner, str) or not 0 < len(owner) <= _MOST_OWNER or not owner.isprintable():
            raise UnauthorizedError(f"the token's claim {settings.jwt_owner_claim} names no owner")
        return Principal(owner, self._scopes(claims.get(settings.jwt_scopes_claim)), None, settings.private_jobs)

    def _scopes(self, claim: object) -> frozenset[Scope]:
        values = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
        known = self._settings.jwt_scopes
        return frozenset(known[value] for value in values if isinstance(value, str) and value in known)

    def _key(self, key_id: object) -> PyJWK:
        """The key of an id. Raises: UnauthorizedError, IdentityProviderError."""
        with self._lock:
            now = self._clock()
            is_fresh = self._fetched_at is not None and now - self._fetched_at < _FRESH_SECONDS
            may_ask = self._asked_at is None or now - self._asked_at >= _REST_SECONDS
            failed = False
            if (not is_fresh or key_id not in self._keys) and may_ask:
                self._asked_at = now
                failed = not self._fetch(now)
            if self._fetched_at is None or now - self._fetched_at > _STALE_SECONDS:
                raise IdentityProviderError("the identity provider's keys can't be had")
            found = self._keys.get(key_id) if isinstance(key_id, str) else None
            if found is None:
                if failed:
                    raise IdentityProviderError("the identity provider's keys can't be had")
                raise UnauthorizedError(_INVALID)
            return found

    def _fetch(self, now: float) -> bool:
        """Asks for the keys; whether they came."""
        try:
            with (
                httpx.Client(timeout=_TIMEOUT, transport=self._transport, follow_redirects=False) as http,
                http.stream("GET", self._settings.jwks_url) as answer,
            ):
                answer.raise_for_status()
                content = b""
                for piece in answer.iter_bytes():
                    content += piece
                    if len(content) > _MOST_BYTES or self._clock() - now > 2 * _TIMEOUT:
                        raise ValueError("the answer is too large, or takes too long")
            keys = PyJWKSet.from_json(content.decode()).keys
        except (httpx.HTTPError, jwt.PyJWTError, ValueError, TypeError, AttributeError, ImportError) as error:
            _log.warning("the identity provider's keys can't be had: %s", type(error).__name__)
            return False
        self._keys = {key.key_id: key for key in keys if key.key_id and key.public_key_use in (None, "sig")}
        self._fetched_at = now
        return True
