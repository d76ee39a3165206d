"""Access tokens: made, found by their secret, listed and revoked.

A secret has 256 random bits, so nobody can try all of them, and no dictionary has them: one round of SHA-256 keeps it
as well as a slow hash would keep a password, and costs a request microseconds. A token is looked up by its hash, in an
index: how long that takes depends on the hash, of which a caller who has only a part of the secret knows nothing.
"""

import hashlib
import re
import secrets
from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import or_, select, update

from service.clock import Clock
from service.db.audit import record
from service.db.engine import Database
from service.db.models import TokenRow
from service.errors import TokenNotFoundError
from service.schemas.access import TokenView
from service.scopes import Scope

__all__ = ["TOKEN_PREFIX", "Tokens", "hash_secret", "token_view"]

TOKEN_PREFIX = "seqae_"
"""Begins every secret, so that scanners of secrets find those that were published by mistake."""

_SECRET = re.compile(r"seqae_[A-Za-z0-9_-]{43}")
_TOUCH_EVERY = timedelta(minutes=1)


def hash_secret(secret: str) -> str | None:
    """What is kept of a secret; None for a text that can't be one."""
    return hashlib.sha256(secret.encode()).hexdigest() if _SECRET.fullmatch(secret) else None


class Tokens:
    """Access tokens of the job database. All methods raise StoreUnavailableError when it does not answer.

    Args:
        database: the job database.
        clock: tells the time, in UTC.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self.now = clock

    def create(
        self, owner: str, scopes: Collection[Scope], *, name: str = "", days: float | None = None, by: str = ""
    ) -> tuple[TokenRow, str]:
        """A new token.

        Args:
            owner: who asks, when a request comes with it.
            scopes: what it is for.
            name: in words.
            days: until it expires; None: never.
            by: who made it.

        Returns:
            Its row and its secret, which is kept nowhere.
        """
        secret, now = TOKEN_PREFIX + secrets.token_urlsafe(32), self.now()
        row = TokenRow(
            id=f"tok_{secrets.token_hex(6)}",
            secret_hash=hash_secret(secret),
            name=name,
            owner=owner,
            scopes=" ".join(sorted(scopes)),
            created_at=now,
            created_by=by,
            expires_at=None if days is None else now + timedelta(days=days),
            revoked_at=None,
            last_used_at=None,
        )
        with self._database.write() as session:
            session.add(row)
            session.flush()
            record(session, now, {"token": row.id, "owner": owner, "scopes": row.scopes})
        return row, secret

    def all(self) -> list[TokenRow]:
        """Every token, newest first."""
        with self._database.read() as session:
            return list(session.scalars(select(TokenRow).order_by(TokenRow.created_at.desc(), TokenRow.id)))

    def revoke(self, token_id: str) -> TokenRow:
        """Ends a token at once; one that is revoked already stays so.

        Raises:
            TokenNotFoundError: there is none of this id.
        """
        with self._database.write() as session:
            row = session.get(TokenRow, token_id.replace("\0", ""))
            if row is None:
                raise TokenNotFoundError("no token has this id")
            if row.revoked_at is None:
                row.revoked_at = self.now()
                record(session, row.revoked_at, {"token": row.id, "owner": row.owner, "revoked": True})
        return row

    def find(self, secret: str) -> TokenRow | None:
        """The token of a secret, whether it can still be used or not; None where there is none."""
        hashed = hash_secret(secret)
        if hashed is None:
            return None
        with self._database.read() as session:
            return session.scalars(select(TokenRow).where(TokenRow.secret_hash == hashed)).first()

    def touch(self, row: TokenRow) -> None:
        """Writes down that a token was used, at most once a minute."""
        now = self.now()
        if row.last_used_at is not None and abs(now - row.last_used_at) < _TOUCH_EVERY:
            return
        used = update(TokenRow).where(TokenRow.id == row.id).values(last_used_at=now)
        with self._database.write() as session:
            session.execute(used.execution_options(synchronize_session=False))

    def any_usable(self) -> bool:
        """Whether any token lets anybody in now."""
        usable = or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > self.now())
        with self._database.read() as session:
            query = select(TokenRow.id).where(TokenRow.revoked_at.is_(None), usable)
            return session.scalar(query.limit(1)) is not None


def token_view(row: TokenRow) -> TokenView:
    """A token as clients see it."""
    return TokenView(
        id=row.id,
        name=row.name,
        owner=row.owner,
        scopes=tuple(row.scopes.split()),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
