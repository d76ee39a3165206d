"""Verbs of access: `token` and `audit`.

Without `--url`, tokens are made in the home's database itself, by a program of its own: whoever can write there needs
no token to be let in, and the first one must be made before there is a service that asks for it.
"""

import json
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqae.errors import Error
from service.cli.home import find_home
from service.cli.options import HomeOption, JsonOption, UrlOption, connect, user_name
from service.cli.output import format_time, print_json, print_model, print_table, printable
from service.scopes import Scope

if TYPE_CHECKING:
    from service.schemas.access import TokenView

__all__ = ["audit", "token"]


class TokenAction(StrEnum):
    """What `seqae token` does."""

    CREATE = "create"
    LIST = "list"
    REVOKE = "revoke"


def token(
    action: Annotated[TokenAction, typer.Argument(help="What to do.")],
    token_id: Annotated[str, typer.Argument(metavar="[ID]", help="Of the token to revoke.")] = "",
    owner: Annotated[str, typer.Option("--owner", help="Who asks, when a request comes with the new token.")] = "",
    scope: Annotated[
        list[Scope] | None, typer.Option("--scope", help="What the new token is for; repeat it for several.")
    ] = None,
    days: Annotated[
        float | None, typer.Option("--days", min=0.01, max=36_500, help="The new token expires after so many days.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What the new token is for, in words.")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the secret into this new file, mode 0600; not to the screen.")
    ] = None,
    if_none: Annotated[
        bool, typer.Option("--if-none", help="Make one only where there is none that could be used.")
    ] = False,
    home: HomeOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make, list or revoke access tokens: in the home's database, or with --url by the service."""
    if action is TokenAction.CREATE:
        _create(owner, scope or [Scope.SUBMIT], days, name, out, if_none, home, url, as_json=as_json)
    elif action is TokenAction.LIST:
        _list(home, url, as_json=as_json)
    else:
        _revoke(token_id, home, url, as_json=as_json)


def _create(
    owner: str,
    scopes: list[Scope],
    days: float | None,
    name: str,
    out: Path | None,
    if_none: bool,
    home: str | None,
    url: str | None,
    *,
    as_json: bool,
) -> None:
    from service.connection import write_token
    from service.schemas.access import TokenCreated

    who = user_name(owner)
    if not who.isprintable() or not 0 < len(who) <= 200 or len(name) > 100:
        raise Error("--owner must have 1 to 200 printable letters, and --name at most 100")
    if out is not None and out.exists():
        if if_none:
            return
        raise Error(f"{out} exists already")
    if url is not None:
        with connect(home, url) as client:
            created = client.create_token(who, scopes, name=name, days=days)
        token_id, secret = created.token.id, created.secret
    else:
        new = {"owner": who, "scopes": [one.value for one in scopes], "name": name, "days": days}
        answer = _ask_database(home, {"action": "create", "new": new, "if_none": if_none})
        if answer == b"[]":
            return
        made = TokenCreated.model_validate_json(answer)
        token_id, secret = made.token.id, made.secret
    if out is not None:
        write_token(out, secret)
    if as_json:
        print_json({"id": token_id, "file": str(out)} if out is not None else {"id": token_id, "secret": secret})
    elif out is not None:
        typer.echo(f"{token_id} is in {out}; clients find it by SEQAE_TOKEN_FILE")
    else:
        typer.echo(f"{token_id}, shown once; clients take it from SEQAE_TOKEN:", err=True)
        typer.echo(secret)


def _list(home: str | None, url: str | None, *, as_json: bool) -> None:
    from pydantic import TypeAdapter

    from service.schemas.access import TokenView

    if url is not None:
        with connect(home, url) as client:
            found = client.tokens()
    else:
        found = TypeAdapter(tuple[TokenView, ...]).validate_json(_ask_database(home, {"action": "list"}))
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
        return
    rows = [(one.id, one.owner, " ".join(one.scopes), _state(one), _when(one.last_used_at), one.name) for one in found]
    print_table(("id", "owner", "scopes", "state", "last used", "name"), rows)


def _state(one: "TokenView") -> str:
    if one.revoked_at is not None:
        return f"revoked {format_time(one.revoked_at)}"
    return "never expires" if one.expires_at is None else f"expires {format_time(one.expires_at)}"


def _when(at: object) -> str:
    from datetime import datetime

    return format_time(at) if isinstance(at, datetime) else "never"


def _revoke(token_id: str, home: str | None, url: str | None, *, as_json: bool) -> None:
    if not token_id:
        raise Error("which one? `seqae token list` shows their ids")
    if url is not None:
        with connect(home, url) as client:
            client.revoke_token(token_id)
    else:
        _ask_database(home, {"action": "revoke", "token_id": token_id})
    if as_json:
        print_json({"id": token_id, "revoked": True})
    else:
        typer.echo(f"{printable(token_id)} lets nobody in any more")


def _ask_database(home: str | None, request: dict[str, Any]) -> bytes:
    """What the program that works on the home's database answers. Raises: Error: it refuses."""
    asked = json.dumps(request | {"home": str(find_home(home)), "by": user_name("")})
    # Not below this folder, in which a file of the user's could stand in for a package.
    command = [sys.executable, "-P", "-m", "service.db.access.local_tokens"]
    done = subprocess.run(command, input=asked.encode(), capture_output=True, check=False)
    if done.returncode:
        raise Error(done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or "the database can't be used")
    return done.stdout


def audit(
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="So many rows, the newest ones.")] = 50,
    before: Annotated[int | None, typer.Option("--before", min=1, help="Only rows below this number.")] = None,
    home: HomeOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who changed what, or was refused to, newest first."""
    with connect(home, url) as client:
        page = client.audit(before=before, limit=limit)
    if as_json:
        print_model(page)
        return
    rows = [
        (
            str(row.id),
            format_time(row.at),
            printable(row.who) or "-",
            row.address,
            row.action,
            printable(row.target),
            "done" if row.status is None else str(row.status),
            printable(", ".join(f"{name}={value}" for name, value in row.changed.items())),
        )
        for row in page.items
    ]
    print_table(("number", "at", "who", "from", "action", "target", "answer", "changed"), rows)
