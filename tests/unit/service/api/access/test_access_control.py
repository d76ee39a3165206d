"""Tokens at the door of a running app: who is let in, what is written down, and what is not."""

import asyncio
import logging
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.api.access.access_control import AccessControl
from service.scopes import Scope
from tests.unit.service.api.access.callers import Caller, Door
from tests.unit.service.api.access.test_every_route import make_door


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made, store = make_door(tmp_path)
    yield made
    store.close()


def test_the_owner_comes_from_the_token_and_never_from_a_header(door: Door) -> None:
    forged = {"Seqae-Owner": "grace"}
    job = asyncio.run(door.ask(Caller.OWNER, "POST", "/jobs", json={"name": "a"}, headers=forged))
    assert (job.status_code, job.json()["owner"]) == (201, "ada")


def test_quotas_count_by_the_token_s_owner(tmp_path: Path) -> None:
    door, store = make_door(tmp_path, max_jobs_per_owner=1)

    async def submit(caller: Caller, said: str) -> int:
        headers = {"Seqae-Owner": said}
        return (await door.ask(caller, "POST", "/jobs", json={"name": "a"}, headers=headers)).status_code

    assert asyncio.run(submit(Caller.OWNER, "x")) == 201
    assert asyncio.run(submit(Caller.OWNER, "y")) == 429
    assert asyncio.run(submit(Caller.OTHER_OWNER, "x")) == 201
    store.close()


def test_a_token_ends_when_it_is_revoked(door: Door) -> None:
    created = asyncio.run(door.ask(Caller.ADMIN, "POST", "/tokens", json={"owner": "joe", "scopes": ["read"]}))
    assert created.headers["cache-control"] == "no-store"
    door.secrets[Caller.UNKNOWN] = created.json()["secret"]
    token_id = created.json()["token"]["id"]
    assert asyncio.run(door.ask(Caller.UNKNOWN, "GET", "/jobs")).status_code == 200
    listed = asyncio.run(door.ask(Caller.ADMIN, "GET", "/tokens"))
    assert created.json()["secret"] not in listed.text
    used = {token["id"]: token["last_used_at"] for token in listed.json()}
    assert used[token_id] is not None
    for _ in range(2):
        revoked = asyncio.run(door.ask(Caller.ADMIN, "DELETE", f"/tokens/{token_id}"))
        assert revoked.json()["revoked_at"] is not None
    assert asyncio.run(door.ask(Caller.UNKNOWN, "GET", "/jobs")).status_code == 401
    assert asyncio.run(door.ask(Caller.ADMIN, "DELETE", "/tokens/tok_none")).status_code == 404


def test_the_page_s_cookie_is_for_this_page_alone(door: Door) -> None:
    refused = asyncio.run(door.ask(Caller.NO_TOKEN, "POST", "/session", json={"token": "seqae_" + "B" * 43}))
    assert refused.status_code == 401
    assert "set-cookie" not in refused.headers
    secret = door.secrets[Caller.OWNER]
    answer = asyncio.run(door.ask(Caller.NO_TOKEN, "POST", "/session", json={"token": secret}))
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert answer.json() == {"owner": "ada", "scopes": ["submit", "promote"], "needs_tokens": True}
    kept = {"Cookie": cookie.partition(";")[0]}
    assert asyncio.run(door.ask(Caller.NO_TOKEN, "GET", "/session", headers=kept)).json()["owner"] == "ada"
    foreign = kept | {"Origin": "http://evil.example"}
    assert asyncio.run(door.ask(Caller.NO_TOKEN, "POST", "/jobs", headers=foreign)).status_code == 403
    other = asyncio.run(door.ask(Caller.NO_TOKEN, "GET", "/jobs", headers=kept | {"Authorization": "Basic eDp5"}))
    assert other.status_code == 401, "a header counts before the cookie"
    ended = asyncio.run(door.ask(Caller.NO_TOKEN, "DELETE", "/session", headers=kept))
    assert 'seqae_token=""' in ended.headers["set-cookie"]


def test_wrong_tokens_get_in_never_take_no_longer_and_are_in_no_log(
    door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small part of the 10,000 below."""
    try_wrong_tokens(door, caplog, monkeypatch, 300)


@pytest.mark.slow
def test_ten_thousand_wrong_tokens(
    door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, near = try_wrong_tokens(door, caplog, monkeypatch, 10_000)
    print(f"median of a wrong token: {far * 1e3:.3f} ms; of one whose last letter is wrong: {near * 1e3:.3f} ms")
    assert abs(near - far) < 0.1 * far


def try_wrong_tokens(
    door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, number: int
) -> tuple[float, float]:
    """Asks with wrong tokens, every other one nearly right; the median seconds of both kinds."""
    monkeypatch.setattr("service.api.access.access_control._FAILURES_AT_ONCE", 1e9)
    caplog.set_level(logging.DEBUG)
    right = door.secrets[Caller.ADMIN]
    letters = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef" if letter != right[-1]]
    seconds: tuple[list[float], list[float]] = ([], [])
    wrong = []

    async def all_of_them() -> set[int]:
        statuses = set()
        for index in range(number):
            is_near = index % 2
            letter = letters[index // 2 % len(letters)]
            secret = right[:-1] + letter if is_near else f"seqae_{index:042d}{letter}"
            wrong.append(secret)
            door.secrets[Caller.UNKNOWN] = secret
            began = time.perf_counter()
            statuses.add((await door.ask(Caller.UNKNOWN, "GET", "/jobs")).status_code)
            seconds[is_near].append(time.perf_counter() - began)
        return statuses

    assert asyncio.run(all_of_them()) == {401}
    text = caplog.text
    assert not [secret for secret in (right, *wrong) if secret in text]
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def test_an_address_that_tries_many_tokens_has_to_wait(door: Door) -> None:
    async def ask_often() -> list[int]:
        return [(await door.ask(Caller.UNKNOWN, "GET", "/jobs")).status_code for _ in range(130)]

    statuses = asyncio.run(ask_often())
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert asyncio.run(door.ask(Caller.UNKNOWN, "GET", "/healthz")).status_code == 200


def test_an_owner_who_asks_too_often_has_to_wait_and_others_have_not(tmp_path: Path) -> None:
    door, store = make_door(tmp_path, rate_limit=0.001, rate_burst=2)

    async def ask(caller: Caller) -> int:
        return (await door.ask(caller, "GET", "/session")).status_code

    assert [asyncio.run(ask(Caller.OWNER)) for _ in range(3)] == [200, 200, 429]
    assert asyncio.run(ask(Caller.OTHER_OWNER)) == 200
    store.close()


def test_the_audit_log_has_each_write_and_each_refused_one(door: Door) -> None:
    async def story() -> str:
        job = (await door.ask(Caller.OWNER, "POST", "/jobs", json={"name": "a"})).json()["id"]
        await door.ask(Caller.OWNER, "PATCH", f"/jobs/{job}", json={"priority": 5})
        await door.ask(Caller.OTHER_OWNER, "POST", f"/jobs/{job}/cancel")
        await door.ask(Caller.NO_TOKEN, "POST", f"/jobs/{job}/cancel")
        await door.ask(Caller.ADMIN, "POST", f"/jobs/{job}/cancel")
        await door.ask(Caller.ADMIN, "POST", f"/jobs/{job}/cancel")
        await door.ask(Caller.ADMIN, "DELETE", f"/jobs/{job}", headers={"Origin": "http://evil.example"})
        await door.ask(Caller.OWNER, "GET", f"/jobs/{job}")
        await door.ask(Caller.OWNER, "POST", "/jobs:validate", json={"name": "a"})
        return str(job)

    job = asyncio.run(story())
    page = asyncio.run(door.ask(Caller.ADMIN, "GET", "/audit?limit=7")).json()
    rows = [(row["who"], row["action"], row["status"], row["changed"]) for row in reversed(page["items"])]
    assert rows == [
        ("ada", "POST /jobs", None, {"job": job, "from": None, "to": "QUEUED"}),
        ("ada", "PATCH /jobs/{job_id}", None, {"job": job, "priority": "5"}),
        ("bob", "POST /jobs/{job_id}/cancel", 403, {}),
        ("", "POST /jobs/{job_id}/cancel", 401, {}),
        ("grace", "POST /jobs/{job_id}/cancel", None, {"job": job, "from": "QUEUED", "to": "CANCELLED"}),
        ("grace", "POST /jobs/{job_id}/cancel", 200, {}),
        ("", "DELETE /jobs/{job_id}", 403, {}),
    ]
    assert {row["address"] for row in page["items"]} == {"127.0.0.1"}
    assert page["items"][0]["target"] == f"/jobs/{job}"
    assert page["next_before"] is None
    first = asyncio.run(door.ask(Caller.ADMIN, "GET", "/audit?limit=3")).json()
    rest = asyncio.run(door.ask(Caller.ADMIN, "GET", f"/audit?limit=3&before={first['next_before']}")).json()
    assert [row["id"] for row in first["items"] + rest["items"]] == [row["id"] for row in page["items"][:6]]


def test_strangers_can_not_fill_the_audit_log(door: Door) -> None:
    async def many() -> None:
        for _ in range(120):
            await door.ask(Caller.NO_TOKEN, "POST", "/jobs")

    asyncio.run(many())
    assert 55 < len(door.context.audit.page(None, 500)) < 80


def test_a_stream_ends_soon_after_its_token(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.access.access_control._CHECK_STREAMS_EVERY", 0.0)
    job = asyncio.run(door.ask(Caller.OWNER, "POST", "/jobs", json={"name": "a"})).json()["id"]
    door.context.closing.clear()
    row = door.context.tokens.find(door.secrets[Caller.READ_ONLY])
    assert row is not None

    async def follow() -> None:
        authenticator = door.context.authenticator
        assert authenticator is not None
        stream = asyncio.create_task(door.ask(Caller.READ_ONLY, "GET", f"/jobs/{job}/events"))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(door.context.tokens.revoke, row.id)
        authenticator.forget()
        await asyncio.to_thread(door.context.job_service.pause, job)
        await asyncio.wait_for(stream, 10)

    asyncio.run(follow())


def test_tokens_off_nobody_is_refused(tmp_path: Path) -> None:
    door, store = make_door(tmp_path, tokens=False)
    assert door.context.authenticator is None
    assert asyncio.run(door.ask(Caller.NO_TOKEN, "GET", "/tokens")).status_code == 200
    owned = asyncio.run(door.ask(Caller.NO_TOKEN, "POST", "/jobs", json={"name": "a"}, headers={"Seqae-Owner": "ada"}))
    assert owned.json()["owner"] == "ada"
    assert AccessControl.__name__ in {str(getattr(one.cls, "__name__", "")) for one in door.app.user_middleware}
    assert Scope.ADMIN in asyncio.run(door.ask(Caller.NO_TOKEN, "GET", "/session")).json()["scopes"]
    store.close()
