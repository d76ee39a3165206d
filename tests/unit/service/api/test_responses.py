"""HEAD, and headers for browsers."""

import time

import httpx
import pytest

from service.db.store import Store
from tests.unit.service.conftest import MakeApp, Serve

PATHS = [
    "/",
    "/compare",
    "/page.js",
    "/docs",
    "/openapi.json",
    "/healthz",
    "/readyz",
    "/jobs",
    "/jobs?limit=0",
    "/nothing/here",
]


@pytest.mark.parametrize("path", PATHS)
def test_head_answers_like_get_without_the_body(client: httpx.Client, path: str) -> None:
    """E5: scanners and load balancers ask with HEAD."""
    get, head = client.get(path), client.head(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    varies = ("date", "x-request-id")
    assert {name: value for name, value in head.headers.items() if name not in varies} == {
        name: value for name, value in get.headers.items() if name not in varies
    }


def test_head_of_what_takes_no_get_is_refused(client: httpx.Client) -> None:
    """E5: HEAD is GET without a body, not every method without one."""
    refused = client.head("/reconstruct")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "POST"


def test_head_of_a_stream_ends_at_once(client: httpx.Client, store: Store) -> None:
    """E5: a job that waits sends events for ever; HEAD is answered and over, and the connection goes on."""
    job_id = client.post("/jobs", json={"name": "a"}).json()["id"]
    begun = time.monotonic()
    head = client.head(f"/jobs/{job_id}/events")
    assert (head.status_code, head.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    assert client.get("/healthz").status_code == 200
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_closed_to_other_pages(client: httpx.Client, path: str) -> None:
    """E5: no sniffing, no frames, no referrer, and a policy that allows what the page needs and nothing else."""
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert ("script-src" in policy) == (path in ("/", "/compare", "/docs"))


def test_a_failure_is_closed_to_other_pages_too(make_app: MakeApp, serve: Serve) -> None:
    """E5: also what the framework answers after a bug."""
    app = make_app()

    def fail() -> None:
        raise RuntimeError("a bug")

    app.add_api_route("/bug", fail)
    answer = serve(app).get("/bug")
    assert answer.status_code == 500
    assert answer.headers["x-content-type-options"] == "nosniff"
