"""Program that makes, lists and revokes tokens in a home's job database, whether the service runs or not.

`seqae token` starts it: the command line itself knows nothing of the database. The request is JSON on standard input,
the answer JSON on standard output; a secret is never an argument, which other users of the machine could see.
"""

import os
import sys
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from seqae.errors import Error
from service.db.access.tokens import Tokens, token_view
from service.db.audit import Actor, current_actor
from service.db.store import Store
from service.schemas.access import NewToken, TokenCreated, TokenView
from service.settings import Settings

__all__ = ["LocalAction", "LocalRequest", "main"]


class LocalAction(StrEnum):
    """What is done with the tokens."""

    CREATE = "create"
    LIST = "list"
    REVOKE = "revoke"


class LocalRequest(BaseModel):
    """What is asked of this program."""

    action: LocalAction
    home: Path
    by: str
    """Who asks."""
    new: NewToken | None = None
    """The token to make."""
    if_none: bool = False
    """Make it only where there is none that could be used."""
    token_id: str = ""
    """The token to revoke."""


def _answer(asked: LocalRequest) -> TokenCreated | tuple[TokenView, ...]:
    settings = Settings.from_environment().model_copy(update={"home": asked.home})
    database = settings.home / "control" / "jobs.db"
    if not settings.database_url and not database.exists():
        if asked.action is not LocalAction.CREATE:
            raise Error(f"there is no job database in {settings.home}")
        database.parent.mkdir(parents=True, exist_ok=True)
    store = Store(settings.database)
    try:
        store.migrate()
        tokens = Tokens(store.database, store.now)
        if asked.action is LocalAction.LIST:
            return tuple(token_view(row) for row in tokens.all())
        current_actor.set(Actor("command line", f"seqae token {asked.action}", str(asked.home), who=asked.by))
        if asked.action is LocalAction.REVOKE:
            return (token_view(tokens.revoke(asked.token_id)),)
        if asked.new is None or (asked.if_none and tokens.any_usable()):
            return ()
        new = asked.new
        row, secret = tokens.create(new.owner, new.scopes, name=new.name, days=new.days, by=asked.by)
        return TokenCreated(token=token_view(row), secret=secret)
    finally:
        store.close()


def main() -> int:
    """Answers the request on standard input; the exit status."""
    os.umask(0o077)
    try:
        answer = _answer(LocalRequest.model_validate_json(sys.stdin.buffer.read()))
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        print(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)
        return 1
    except (Error, OSError, SQLAlchemyError) as error:
        print(str(error).partition("\n")[0], file=sys.stderr)
        return 1
    sys.stdout.buffer.write(TypeAdapter(TokenCreated | tuple[TokenView, ...]).dump_json(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
