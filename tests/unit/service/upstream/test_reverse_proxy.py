"""What passes through the proxy, and what does not, with an upstream in memory."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from service.errors import BodyTooLargeError, UpstreamError
from service.upstream.reverse_proxy import MOST_BODY, ReverseProxy


async def body_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Upstream:
    """Notes what it is asked, and answers what the test says."""

    def __init__(self, status: int = 200, headers: dict[str, str] | None = None, content: bytes = b"") -> None:
        self.requests: list[httpx.Request] = []
        self.status, self.headers, self.content = status, headers or {}, content

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(self.status, headers=self.headers, content=body_of(self.content))


def ask(
    upstream: Upstream,
    path: str = "a",
    headers: tuple[tuple[str, str], ...] = (),
    body: tuple[bytes, ...] = (),
    query: bytes = b"",
) -> tuple[int, dict[str, str], bytes]:
    async def send() -> tuple[int, dict[str, str], bytes]:
        transport = httpx.MockTransport(upstream)
        own = {"Authorization": "Bearer of-ray"}
        proxy = ReverseProxy("http://127.0.0.1:8401", "/mlflow", lambda: own, transport)
        answer = await proxy.send("POST", path, query, headers, body_of(*body))
        content = b"".join([piece async for piece in answer.body])
        await proxy.close()
        return answer.status, dict(answer.headers), content

    return asyncio.run(send())


def test_no_credential_of_ours_is_passed_on() -> None:
    upstream = Upstream()
    given = (
        ("Authorization", "Bearer seqae_secret"),
        ("Cookie", "seqae_token=seqae_secret"),
        ("X-Ray-Authorization", "Bearer seqae_secret"),
        ("Seqae-Owner", "ada"),
        ("Host", "lab.example"),
        ("Origin", "https://lab.example"),
        ("Referer", "https://lab.example/"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("Connection", "close, X-Secret"),
        ("X-Secret", "hop"),
        ("Upgrade", "websocket"),
        ("Transfer-Encoding", "chunked"),
        ("Accept", "text/html"),
        ("Content-Type", "application/json"),
    )
    ask(upstream, headers=given, body=(b"{", b"}"), query=b"x=%2F&y=1")
    (request,) = upstream.requests
    assert request.content == b"{}"
    assert str(request.url) == "http://127.0.0.1:8401/a?x=%2F&y=1"
    assert request.headers["host"] == "127.0.0.1:8401"
    assert request.headers["authorization"] == "Bearer of-ray"
    assert request.headers["accept"] == "text/html"
    assert request.headers["content-length"] == "2"
    sent = " ".join(f"{name}:{value}" for name, value in request.headers.items())
    for word in ("seqae_secret", "ada", "lab.example", "192.0.2.1", "hop", "websocket", "chunked"):
        assert word not in sent


def test_an_upstream_sets_no_rules_of_this_origin() -> None:
    upstream = Upstream(
        status=201,
        content=b"found",
        headers={
            "set-cookie": "a=b",
            "access-control-allow-origin": "*",
            "content-security-policy": "default-src *",
            "connection": "close",
            "etag": "1",
            "content-type": "text/css",
        },
    )
    status, headers, content = ask(upstream)
    assert (status, content) == (201, b"found")
    assert headers == {"etag": "1", "content-type": "text/css"}


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("/x?y=1", "/mlflow/x?y=1"),
        ("http://127.0.0.1:8401/x", "/mlflow/x"),
        ("https://evil.example/", "/mlflow/"),
        ("//evil.example/", "/mlflow/"),
        ("below", "below"),
    ],
)
def test_redirects_stay_below_the_prefix(there: str, here: str) -> None:
    assert ask(Upstream(302, headers={"location": there}))[1]["location"] == here


def test_a_redirect_to_no_address_is_an_outage() -> None:
    with pytest.raises(UpstreamError):
        ask(Upstream(302, headers={"location": "javascript:alert(1)"}))


@pytest.mark.parametrize(
    "path", ["http://evil.example/", "//evil.example/x", "@evil.example", "../../etc", "a?b#c", "a\nb"]
)
def test_no_path_leads_to_another_host(path: str) -> None:
    upstream = Upstream()
    try:
        ask(upstream, path)
    except UpstreamError:
        return
    assert (upstream.requests[0].url.host, upstream.requests[0].url.port) == ("127.0.0.1", 8401)


def test_large_bodies_and_outages_are_said() -> None:
    upstream = Upstream()
    with pytest.raises(BodyTooLargeError):
        ask(upstream, body=(b"x" * MOST_BODY, b"x"))
    assert upstream.requests == []

    async def away() -> None:
        def refuse(_request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("to 127.0.0.1:8401")

        proxy = ReverseProxy("http://127.0.0.1:8401", "/ray", transport=httpx.MockTransport(refuse))
        await proxy.send("GET", "", b"", (), body_of())

    with pytest.raises(UpstreamError, match=r"^/ray does not answer: ConnectError$"):
        asyncio.run(away())
