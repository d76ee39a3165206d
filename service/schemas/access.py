"""Wire models of access tokens, of the page's session, and of the audit log."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from seqae.config import NO_NULL
from service.schemas.base import Schema
from service.scopes import Scope

__all__ = ["AuditEntry", "AuditPage", "NewToken", "SessionRequest", "SessionView", "TokenCreated", "TokenView"]

OwnerText = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NULL)]


class NewToken(BaseModel):
    """Body of `POST /tokens`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    owner: OwnerText
    """Who asks, when a request comes with it; quotas count by it."""
    scopes: tuple[Scope, ...] = Field((Scope.SUBMIT,), min_length=1, max_length=len(Scope))
    """What it is for: read, submit, promote, admin. Each includes reading, and `admin` everything."""
    name: str = Field("", max_length=100, pattern=NO_NULL)
    """What it is for, in words."""
    days: float | None = Field(None, gt=0, le=36_500)
    """It expires after so many days; null: never."""


class TokenView(Schema):
    """An access token, without its secret."""

    id: str
    """By which it is revoked."""
    name: str
    """What it is for, in words."""
    owner: str
    """Who asks, when a request comes with it."""
    scopes: tuple[str, ...]
    """What its holder may do."""
    created_at: datetime
    """When it was made (UTC)."""
    created_by: str
    """Who made it."""
    expires_at: datetime | None
    """When it expires (UTC); None: never."""
    revoked_at: datetime | None
    """When it was revoked (UTC); None while it is not."""
    last_used_at: datetime | None
    """When it was last used (UTC), to the minute; None before."""


class TokenCreated(Schema):
    """A new access token, with its secret."""

    token: TokenView
    """The token."""
    secret: str
    """What requests send as `Authorization: Bearer`. It is shown once, and kept nowhere."""


class SessionRequest(BaseModel):
    """Body of `POST /session`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    token: str = Field(min_length=1, max_length=8192, repr=False)
    """The secret of a token."""


class SessionView(Schema):
    """Who asks, and what they may do."""

    owner: str
    """By the token; empty where tokens are off."""
    scopes: tuple[Scope, ...]
    """What they may do."""
    needs_tokens: bool
    """Whether requests need a token."""


class AuditEntry(Schema):
    """A request that changed something, or was refused to."""

    id: int
    """Number of the entry; later ones have higher numbers."""
    at: datetime
    """When (UTC)."""
    who: str
    """The owner; empty where nobody has said who asks."""
    token_id: str | None
    """Of the token; None without one of this service."""
    address: str
    """Of the client, or `command line`."""
    action: str
    """Method and path of the route, or a verb of the command line."""
    target: str
    """Path of the request."""
    status: int | None
    """HTTP status of the answer; None where it was written together with what was changed."""
    changed: dict[str, Any]
    """What was changed."""


class AuditPage(Schema):
    """Rows of the audit log, newest first."""

    items: tuple[AuditEntry, ...]
    """At most `limit` of them."""
    next_before: int | None
    """Give it as `before` for the next page; None at the end."""
