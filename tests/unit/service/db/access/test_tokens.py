"""Access tokens and the audit log on SQLite and on PostgreSQL: what is written, found, limited and removed."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from service.db.access.tokens import Tokens
from service.db.audit import Actor, AuditLog, current_actor
from service.db.store import Store
from service.errors import TokenNotFoundError
from service.scopes import Scope

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[Store]:
    store = Store(database_url, clock=clock)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def tokens(store: Store, clock: Clock) -> Tokens:
    return Tokens(store.database, clock)


@pytest.fixture
def audit(store: Store, clock: Clock) -> AuditLog:
    return AuditLog(store.database, clock)


def test_a_token_is_found_by_its_secret_alone(tokens: Tokens, clock: Clock) -> None:
    row, secret = tokens.create("ada", [Scope.SUBMIT, Scope.READ], name="läptop 🖥", days=1, by="grace")
    found = tokens.find(secret)
    assert found is not None
    assert (found.id, found.owner, found.scopes, found.name) == (row.id, "ada", "read submit", "läptop 🖥")
    assert found.expires_at == NOW + timedelta(days=1), "with its zone"
    for other in (secret[:-1], secret + "A", f"seqae_{'A' * 43}", "", "\0", "seqae_" + "\0" * 43):
        assert tokens.find(other) is None
    clock.now += timedelta(seconds=1)
    second, _ = tokens.create("bob", [Scope.ADMIN])
    assert [one.id for one in tokens.all()] == [second.id, row.id]


def test_a_use_is_written_down_once_a_minute(tokens: Tokens, clock: Clock) -> None:
    _, secret = tokens.create("ada", [Scope.READ])

    def used(after: float) -> datetime | None:
        clock.now += timedelta(seconds=after)
        row = tokens.find(secret)
        assert row is not None
        tokens.touch(row)
        found = tokens.find(secret)
        return None if found is None else found.last_used_at

    assert [used(seconds) for seconds in (0, 59, 2)] == [NOW, NOW, NOW + timedelta(seconds=61)]


def test_a_token_that_is_revoked_or_over_lets_nobody_in(tokens: Tokens, clock: Clock) -> None:
    assert not tokens.any_usable()
    row, _ = tokens.create("ada", [Scope.READ], days=1)
    assert tokens.any_usable()
    clock.now += timedelta(days=1)
    assert not tokens.any_usable()
    endless, _ = tokens.create("ada", [Scope.READ])
    assert tokens.any_usable()
    first = tokens.revoke(endless.id).revoked_at
    clock.now += timedelta(days=1)
    assert tokens.revoke(endless.id).revoked_at == first, "a second time changes nothing"
    assert not tokens.any_usable()
    for unknown in ("tok_none", "", "\0", row.id + "\0x"):
        with pytest.raises(TokenNotFoundError):
            tokens.revoke(unknown)


def test_a_change_and_its_audit_row_are_one(tokens: Tokens, audit: AuditLog) -> None:
    actor = Actor("192.0.2.1", "POST /tokens", "/tokens", who="grace\0" + "é" * 300, token_id="tok_1")
    reset = current_actor.set(actor)
    try:
        row, secret = tokens.create("ada", [Scope.READ])
        tokens.revoke(row.id)
    finally:
        current_actor.reset(reset)
    tokens.create("bob", [Scope.READ])
    revoked, made = audit.page(None, 10)
    assert made.changed == {"token": row.id, "owner": "ada", "scopes": "read"}
    assert revoked.changed == {"token": row.id, "owner": "ada", "revoked": True}
    assert (made.who, made.at, made.status) == ("grace" + "é" * 195, NOW, None)
    assert actor.recorded
    assert secret not in f"{made.changed}{revoked.changed}"


def test_whatever_a_client_sends_fits_into_the_audit_log(audit: AuditLog) -> None:
    hostile = "\0\ud800🖥" + "x" * 2_000
    audit.add(Actor(hostile, hostile, hostile, who=hostile), 403, {"left_out": 2})
    (row,) = audit.page(None, 10)
    assert (row.status, row.changed, row.who[:2]) == (403, {"left_out": 2}, "?🖥")


def test_the_audit_log_has_its_bounds(audit: AuditLog, clock: Clock) -> None:
    for number in range(10):
        clock.now = NOW + timedelta(days=number)
        audit.add(Actor("a", "POST /jobs", f"/{number}"), 403, {})
    assert [row.target for row in audit.page(audit.page(None, 3)[-1].id, 2)] == ["/6", "/5"]
    assert audit.prune(NOW + timedelta(days=2), most=100) == 2
    assert audit.prune(NOW, most=3) == 5
    assert [row.target for row in audit.page(None, 10)] == ["/9", "/8", "/7"]
    assert audit.prune(NOW, most=3) == 0
