"""Scopes of access tokens: what the holder of a token may do."""

from collections.abc import Collection, Iterable
from enum import StrEnum

__all__ = ["Scope", "allows", "parse_scopes"]


class Scope(StrEnum):
    """What a token lets its holder do. Each of the others includes reading; `admin` includes everything."""

    READ = "read"
    """Look at jobs and models, and have images reconstructed."""
    SUBMIT = "submit"
    """Submit jobs, and change the holder's own."""
    PROMOTE = "promote"
    """Decide which version of a model is served."""
    ADMIN = "admin"
    """Everything: jobs of others, tokens, the audit log, Ray's dashboard."""


def allows(held: Collection[Scope], wanted: Scope) -> bool:
    """Whether somebody with these scopes may do what needs another one."""
    return wanted in held or Scope.ADMIN in held or (wanted is Scope.READ and bool(held))


def parse_scopes(names: Iterable[str]) -> frozenset[Scope]:
    """Scopes by their names; names that this release does not know are left out, and so allow nothing."""
    known = {scope.value: scope for scope in Scope}
    return frozenset(known[name] for name in names if name in known)
