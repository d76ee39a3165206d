"""Which requests are refused because another's web page made them."""

import asyncio
from collections.abc import Mapping

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from service.api.request_guard import RequestGuard


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("answered")(scope, receive, send)


def _status(headers: Mapping[str, str], method: str = "GET", path: str = "/jobs", allowed: tuple[str, ...] = ()) -> int:
    """The status of the guard's answer to a request that names localhost, unless `headers` says otherwise."""

    async def ask() -> int:
        transport = httpx.ASGITransport(app=RequestGuard(_app, allowed))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8400") as client:
            return (await client.request(method, path, headers=dict(headers))).status_code

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1:8400", "127.1.2.3", "[::1]", "[::1]:8400"]
)
def test_the_loopback_by_any_of_its_names_is_ours(host: str) -> None:
    """E1: loopback names are allowed by default, with any port."""
    assert _status({"host": host}) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8400",
        "localhost.evil.example",
        "evil-localhost",
        "127.0.0.1.evil.example",
        "10.0.0.7:8400",
        "[2001:db8::1]:8400",
        "evil.example@localhost",
        "localhost:8400:8400",
        "localhost:port",
        "[::1",
        "localhost/..",
        "",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
def test_a_request_to_another_name_is_misdirected(host: str, method: str) -> None:
    """E1: DNS rebinding: the page's own name leads here, so the name tells."""
    assert _status({"host": host}, method) == 421


def test_the_refusal_is_a_problem(client: httpx.Client) -> None:
    """E1: in the app the guard sees each request before the routes do."""
    for path in ("/", "/jobs", "/docs", "/openapi.json", "/nothing/here"):
        answer = client.get(path, headers={"host": "evil.example"})
        assert (answer.status_code, answer.json()["type"]) == (421, "urn:seqae:problem:foreign-host")
        assert "evil" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
    answer = client.post("/models:rollback", headers={"origin": "http://evil.example"})
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:seqae:problem:foreign-origin")
    assert client.post("/jobs", json={"name": "a"}).status_code == 201, "our own client names no origin"


def test_more_names_can_be_allowed() -> None:
    """E1: names by which a proxy, or other containers, reach the service."""
    allowed = ("seqae.example", "api:8400", "*.inside.example", "192.0.2.7", "2001:db8::1")
    for host in ("seqae.example", "Seqae.Example:99", "api:8400", "a.inside.example", "192.0.2.7:1", "[2001:db8::1]:8"):
        assert _status({"host": host}, allowed=allowed) == 200, host
    for host in ("a.seqae.example", "api", "api:1", "inside.example", ".inside.example", "insideXexample", "192.0.2.8"):
        assert _status({"host": host}, allowed=allowed) == 421, host
    assert _status({"host": "any.example"}, allowed=("*",)) == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_name_a_container_by_its_address(path: str) -> None:
    """E1: Kubernetes asks with the pod's address as host. No page has an address for a name."""
    assert _status({"host": "10.1.2.3:8400"}, path=path) == 200
    assert _status({"host": "10.1.2.3:8400"}, "HEAD", path) == 200
    assert _status({"host": "evil.example"}, path=path) == 421
    assert _status({"host": "10.1.2.3:8400"}, "POST", path) == 421


FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "https://localhost.evil.example:8400"},
    {"origin": "http://localhost:3000"},
    {"origin": "http://localhost"},
    {"origin": "http://127.0.0.1:8400"},
    {"origin": "https://user@localhost:8400"},
    {"origin": "file://localhost:8400"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://[::1"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "something new"},
    {"sec-fetch-site": "same-origin", "origin": "http://evil.example"},
    {"sec-fetch-site": "cross-site", "origin": "http://localhost:8400"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT", "OPTIONS"])
def test_a_page_of_another_origin_changes_nothing(headers: Mapping[str, str], method: str) -> None:
    """E1: a page may send such requests without being allowed to read the answer."""
    assert _status(headers, method) == 403
    assert _status(headers, method, allowed=("*",)) == 403, "allowing any name allows no other page"


@pytest.mark.parametrize("headers", FOREIGN)
def test_reading_needs_no_origin(headers: Mapping[str, str]) -> None:
    """E1: without CORS the browser keeps the answer from the page; links from elsewhere work."""
    assert _status(headers) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://localhost:8400"},
        {"origin": "http://LocalHost:8400", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"host": "localhost", "origin": "http://localhost:80"},
        {"host": "localhost:443", "origin": "https://localhost"},
        {"host": "[::1]:8400", "origin": "http://[::1]:8400"},
    ],
)
def test_our_own_page_and_other_clients_may_change_things(headers: Mapping[str, str]) -> None:
    """E1: the page of this service names its origin, curl and the client name none."""
    assert _status(headers, "POST") == 200


def test_behind_a_proxy_that_rewrites_the_host() -> None:
    """E1: the browser names the proxy; that name must have been allowed, with its port."""
    allowed = ("seqae.example", "other.example:8443")
    assert _status({"origin": "https://seqae.example"}, "POST", allowed=allowed) == 200
    assert _status({"origin": "https://other.example:8443"}, "POST", allowed=allowed) == 200
    assert _status({"origin": "https://seqae.example:444"}, "POST", allowed=allowed) == 403
    assert _status({"origin": "https://other.example"}, "POST", allowed=allowed) == 403


def test_no_answer_opens_cors(client: httpx.Client) -> None:
    """E1: no other origin is ever told that it may read."""
    for method in ("GET", "OPTIONS"):
        answer = client.request(method, "/jobs", headers={"origin": "http://evil.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]
