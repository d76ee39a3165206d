"""Whatever a client sends, the answer is a problem that names what is wrong; never a 5xx."""

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.types import Message, Scope

from jobs.backends.fakes import FakeLauncher
from jobs.errors import FolderError
from service.db.store import Store
from service.errors import StoreUnavailableError
from tests.unit.service.conftest import MakeApp

JSON = {"content-type": "application/json"}


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert found["instance"] == answer.request.url.path
    assert {"type", "title", "detail"} <= set(found)
    return dict(found)


def pointers(answer: httpx.Response, status: int = 422) -> list[str]:
    return [error["pointer"] for error in problem(answer, status)["errors"]]


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"name": "a", "learning_rate": 1}, ["#/learning_rate"]),
        ({"name": "a", "model": {"steps": "many"}}, ["#/model/steps"]),
        ({"name": "a", "model": {"height": -64}}, ["#/model/height"]),
        ({"name": "a", "model": {"attention": {"kernel_size": 100}}}, ["#/model/attention/kernel_size"]),
        ({"name": "a", "scaling": {"workers": 24}}, ["#/scaling/workers"]),
        ({"name": "a", "scaling": {"workers": 26}}, ["#/scaling/workers"]),
        ({"name": "a", "scaling": {"workers": {"min": 1, "max": 26}}}, ["#/scaling/workers/max"]),
        ({"name": "a", "scaling": {"gpus_per_worker": 1}}, ["#/scaling/gpus_per_worker"]),
        (
            {
                "kind": "tune",
                "name": "a",
                "base": {"name": "b", "scaling": {"workers": 24}},
                "space": {"bottleneck": [8]},
            },
            ["#/base/scaling/workers"],
        ),
        (
            {"name": "a", "data": {"kind": "mnist_scenes", "max_digits": 0, "x~/": 1}},
            ["#/data/max_digits", "#/data/x~0~1"],
        ),
        ({"name": "../../etc"}, ["#/name"]),
        ([], ["#"]),
    ],
)
def test_a_bad_spec_is_refused_where_it_is_bad(client: httpx.Client, spec: object, where: list[str]) -> None:
    assert sorted(pointers(client.post("/jobs", json=spec))) == where
    assert client.get("/jobs").json()["items"] == []


def test_half_a_surrogate_pair_in_a_name_is_no_crash(client: httpx.Client) -> None:
    answer = client.post("/jobs", content=b'{"name": "a", "\\ud800": 1}', headers=JSON)
    assert len(pointers(answer)) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"name: a",
        b'{"name": "a",}',
        b"\xff\xfe",
        b'{"name": "\xff"}',
        b"[" * 50_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_body_that_is_not_json(client: httpx.Client, body: bytes) -> None:
    assert "JSON" in problem(client.post("/jobs", content=body, headers=JSON), 400)["detail"]


def test_where_the_json_breaks_is_told(client: httpx.Client) -> None:
    answer = client.post("/jobs", content=b'{"name": "a",\n  "seed" 5}', headers=JSON)
    assert "line 2, column 10" in problem(answer, 400)["detail"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite(client: httpx.Client, value: str) -> None:
    body = f'{{"name": "a", "schedule": {{"learning_rate": {value}}}}}'
    assert pointers(client.post("/jobs", content=body, headers=JSON)) == ["#/schedule/learning_rate"]


def test_no_body_at_all(client: httpx.Client) -> None:
    assert pointers(client.post("/jobs", headers=JSON)) == ["#"]


@pytest.mark.parametrize("media_type", ["text/yaml", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_type_of_body(client: httpx.Client, media_type: str) -> None:
    for address in ("/jobs", "/jobs:validate"):
        problem(client.post(address, content=b"name: a", headers={"content-type": media_type}), 415)


def test_an_unknown_address_and_method(client: httpx.Client) -> None:
    problem(client.get("/nothing/here"), 404)
    for address, allowed in (
        ("/jobs", "GET, HEAD, POST"),
        ("/jobs/job_1", "GET, HEAD, PATCH, DELETE"),
        ("/healthz", "GET, HEAD"),
    ):
        refused = client.put(address, json={})
        problem(refused, 405)
        assert refused.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("method", "address"),
    [
        ("GET", "/jobs/{}"),
        ("DELETE", "/jobs/{}"),
        ("POST", "/jobs/{}/cancel"),
        ("POST", "/jobs/{}/pause"),
        ("POST", "/jobs/{}/resume"),
        ("POST", "/jobs/{}/retry"),
        ("GET", "/jobs/{}/logs"),
        ("GET", "/jobs/{}/logs?follow=true"),
        ("GET", "/jobs/{}/events"),
        ("GET", "/jobs/{}/attempts"),
        ("GET", "/jobs/{}/frames"),
        ("GET", "/jobs/{}/frames/latest"),
    ],
)
def test_an_unknown_job(client: httpx.Client, method: str, address: str) -> None:
    for job_id in ("job_000000000000", "x", "%00", "..%2f..", "\U0001f600", "a" * 3000):
        problem(client.request(method, address.format(job_id)), 404)


def test_a_change_of_an_ended_job(client: httpx.Client) -> None:
    job = client.post("/jobs", json={"name": "a"}).json()["id"]
    for _ in range(2):
        assert client.post(f"/jobs/{job}/cancel").json()["state"] == "CANCELLED"
    for verb in ("pause", "resume"):
        assert "CANCELLED" in problem(client.post(f"/jobs/{job}/{verb}"), 409)["detail"]
    problem(client.patch(f"/jobs/{job}", json={"priority": 1}), 409)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=201", 422),
        ("limit=many", 422),
        ("state=ASLEEP", 422),
        ("cursor=nonsense", 400),
        ("cursor=%00", 400),
        ("cursor=am9iczo5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk", 400),  # jobs:9999...: no such number fits a database
        ("cursor=am9iczotMQ", 400),  # jobs:-1
    ],
)
def test_bad_query_parameters(client: httpx.Client, query: str, status: int) -> None:
    found = problem(client.get(f"/jobs?{query}"), status)
    if status == 422:
        assert found["errors"][0]["parameter"] == query.partition("=")[0]


@pytest.mark.parametrize("last", ["x", "-1", "9" * 30])
def test_a_bad_last_event_id(client: httpx.Client, last: str) -> None:
    job = client.post("/jobs", json={"name": "a"}).json()["id"]
    found = problem(client.get(f"/jobs/{job}/events", headers={"last-event-id": last}), 422)
    assert found["errors"][0]["parameter"].lower() == "last-event-id"


def test_a_reused_idempotency_key(client: httpx.Client) -> None:
    key = {"idempotency-key": "k1"}
    first = client.post("/jobs", json={"name": "a"}, headers=key)
    again = client.post("/jobs", json={"name": "a"}, headers=key)
    assert first.json()["id"] == again.json()["id"]
    problem(client.post("/jobs", json={"name": "b"}, headers=key), 409)
    problem(client.post("/jobs", json={"name": "a"}, headers={"idempotency-key": "k" * 256}), 422)


def test_a_large_body_is_refused_early(client: httpx.Client) -> None:
    for address in ("/jobs", "/reconstruct", "/nothing"):
        found = problem(client.post(address, content=b"0" * 50_000_000, headers=JSON), 413)
        assert "larger than" in found["detail"]


def test_a_large_body_without_a_length_is_refused_while_it_comes(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"name": "'
        for _ in range(500):
            yield b"a" * 100_000

    problem(client.post("/jobs", content=chunks(), headers=JSON), 413)
    problem(client.post("/reconstruct", content=chunks(), headers=JSON), 413)


@pytest.mark.parametrize("media_type", ["multipart/form-data; boundary=x", "application/json"])
def test_a_client_that_leaves_within_its_body_is_no_error_of_ours(make_app: MakeApp, media_type: str) -> None:
    """Found by fuzzing: it left a traceback in the log."""
    app, sent = make_app(), list[Message]()
    messages: list[Message] = [
        {"type": "http.request", "body": b"--x\r\n", "more_body": True},
        {"type": "http.disconnect"},
    ]
    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/reconstruct",
        "raw_path": b"/reconstruct",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", media_type.encode())],
        "server": ("127.0.0.1", 8400),
        "client": ("127.0.0.1", 5),
    }

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 400


def test_thousands_of_mistakes_are_told_briefly(client: httpx.Client) -> None:
    answer = client.post(
        "/jobs", content=json.dumps({"name": "a", "schedule": {"growth": [{}] * 15_000}}), headers=JSON
    )
    assert 1 <= len(pointers(answer)) <= 50


def test_a_crash_tells_nothing_of_the_inside(
    client: httpx.Client, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the secret of /home/somebody")

    logged = threading.Event()
    monkeypatch.setattr(store, "page", fail)
    # The server logs after it has answered.
    monkeypatch.setattr(caplog.handler, "emit", lambda record: logged.set() if record.exc_info else None)
    answer = client.get("/jobs")
    problem(answer, 500)
    assert "secret" not in answer.text
    assert logged.wait(10)


def test_an_error_of_ours_that_is_no_clients_fault_tells_nothing_of_the_inside(
    client: httpx.Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise FolderError("the secret of /home/somebody")

    monkeypatch.setattr(store, "page", fail)
    answer = client.get("/jobs")
    found = problem(answer, 500)
    assert found["type"] == "about:blank"
    assert "log" in found["detail"]
    assert "secret" not in answer.text
    assert "retry-after" not in answer.headers


def test_a_lost_database_says_when_to_come_back(
    client: httpx.Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StoreUnavailableError("the job database does not answer")

    monkeypatch.setattr(store, "page", fail)
    answer = client.get("/jobs")
    problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0


def test_an_unreachable_cluster_is_not_the_clients_fault(client: httpx.Client, launcher: FakeLauncher) -> None:
    launcher.unreachable = True
    assert client.post("/jobs", json={"name": "a"}).status_code == 201
    ready = client.get("/readyz")
    assert ready.status_code == 200, "jobs are taken, and wait for it"
    assert ready.json()["parts"]["cluster"]["ok"] is False
    assert ready.json()["works"] == {"accept_jobs": True, "run_jobs": False, "reconstruct": False}
