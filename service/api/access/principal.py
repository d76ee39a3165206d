"""Who makes a request, and the dependency by which a route declares what it needs."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.types import Scope as AsgiScope

from service.errors import ForbiddenError
from service.scopes import Scope, allows

__all__ = [
    "ANONYMOUS",
    "OPEN",
    "Principal",
    "PrincipalDep",
    "Requires",
    "needs",
    "principal_of",
    "public",
    "set_principal",
]

_KEY = "seqae.principal"


@dataclass(frozen=True)
class Principal:
    """Who makes a request, and what they may do."""

    owner: str | None
    """Their name by the token; None where tokens are off, and a header may say it."""
    scopes: frozenset[Scope] = field(default_factory=frozenset)
    token_id: str | None = None
    """Of the database's token; None for one of an identity provider."""
    is_restricted: bool = False
    """Whether they see their own jobs alone."""

    def may(self, scope: Scope) -> bool:
        """Whether they may do what needs a scope."""
        return allows(self.scopes, scope)

    def owner_or(self, said: str) -> str:
        """Who asks: by the token, and what a header says only where tokens are off."""
        return said if self.owner is None else self.owner

    @property
    def sees_only(self) -> str | None:
        """The owner whose jobs alone they see; None: all jobs."""
        return self.owner if self.is_restricted and not self.may(Scope.ADMIN) else None


OPEN = Principal(None, frozenset(Scope))
"""Whoever asks where tokens are off: nobody is refused anything."""

ANONYMOUS = Principal("")
"""Whoever asks a public route without a token."""


def set_principal(scope: AsgiScope, principal: Principal) -> None:
    """Writes down who makes a request, for its route."""
    scope[_KEY] = principal


def principal_of(scope: AsgiScope) -> Principal:
    """Who makes a request; nobody where that was not found out."""
    found: Any = scope.get(_KEY)
    return found if isinstance(found, Principal) else ANONYMOUS


class Requires:
    """Dependency that declares what a route needs, and refuses whoever does not have it.

    `service.api.access.access_control` looks at the same declaration before the body is read; a request that came to
    the route past it is refused here.

    Args:
        scope: needed for the route; None: the route is public.
    """

    def __init__(self, scope: Scope | None) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> None:
        """Raises: ForbiddenError: the token does not have the scope."""
        if self.scope is not None and not principal_of(request.scope).may(self.scope):
            raise ForbiddenError(f"this needs a token with the scope `{self.scope}`")


def needs(scope: Scope) -> Any:
    """For a route's `dependencies`: it needs a scope."""
    return Depends(Requires(scope))


def public() -> Any:
    """For a route's `dependencies`: anybody may ask."""
    return Depends(Requires(None))


def _principal(request: Request) -> Principal:
    return principal_of(request.scope)


PrincipalDep = Annotated[Principal, Depends(_principal)]
