"""Callers of a service that needs tokens: each with its token, in memory."""

from enum import StrEnum

import httpx
from fastapi import FastAPI

from service.api.dependencies import AppContext
from service.scopes import Scope

__all__ = ["STRANGERS", "Caller", "Door"]


class Caller(StrEnum):
    """Who asks."""

    NO_TOKEN = "no token"
    UNKNOWN = "a token that nobody made"
    EXPIRED = "expired"
    REVOKED = "revoked"
    READ_ONLY = "read-only"
    OTHER_OWNER = "other owner"
    OWNER = "owner"
    ADMIN = "admin"


STRANGERS = (Caller.NO_TOKEN, Caller.UNKNOWN, Caller.EXPIRED, Caller.REVOKED)


class Door:
    """An app that needs tokens, and its callers' secrets.

    Args:
        app: with `tokens` on.
    """

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        context = app.state.context
        assert isinstance(context, AppContext)
        self.context = context
        context.closing.set()  # streams end after what there is
        tokens, user = context.tokens, (Scope.SUBMIT, Scope.PROMOTE)
        self.secrets: dict[Caller, str] = {Caller.NO_TOKEN: "", Caller.UNKNOWN: "seqae_" + "A" * 43}
        _, self.secrets[Caller.READ_ONLY] = tokens.create("eve", [Scope.READ])
        _, self.secrets[Caller.OTHER_OWNER] = tokens.create("bob", user)
        _, self.secrets[Caller.OWNER] = tokens.create("ada", user)
        _, self.secrets[Caller.ADMIN] = tokens.create("grace", [Scope.ADMIN])
        row, self.secrets[Caller.REVOKED] = tokens.create("grace", [Scope.ADMIN])
        tokens.revoke(row.id)
        _, self.secrets[Caller.EXPIRED] = tokens.create("grace", [Scope.ADMIN], days=-1)

    async def ask(
        self,
        caller: Caller,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        json: object = None,
        host: str = "localhost",
        address: str = "127.0.0.1",
    ) -> httpx.Response:
        """The answer to a caller's request, from an address."""
        secret = self.secrets[caller]
        sent = {"Authorization": f"Bearer {secret}"} if secret else {}
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False, client=(address, 50_000))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.request(method, path, headers=sent | (headers or {}), json=json)
