"""Reverse proxy for the pages and APIs of MLflow and Ray, which themselves listen where nobody else reaches them."""

import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass

import httpx

from service.errors import BodyTooLargeError, UpstreamError

__all__ = ["MOST_BODY", "ProxiedAnswer", "ReverseProxy"]

MOST_BODY = 10_000_000
"""Bytes of a request's body."""

_TIMEOUT = httpx.Timeout(60.0, connect=5.0)

_HOP_BY_HOP = (
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "trailers"),
    *("transfer-encoding", "upgrade"),
)
_NOT_SENT = frozenset(
    (
        *_HOP_BY_HOP,
        # Who asks is our affair; the upstream refuses other names and origins than its own.
        *("authorization", "cookie", "host", "origin", "referer", "content-length", "x-ray-authorization", "expect"),
        "forwarded",
    )
)
_NOT_ANSWERED = frozenset(
    (
        *_HOP_BY_HOP,
        # An upstream's cookies and rules would be those of this origin.
        *("set-cookie", "clear-site-data", "strict-transport-security", "content-security-policy", "server", "date"),
        *("access-control-allow-origin", "access-control-allow-credentials", "service-worker-allowed"),
    )
)


@dataclass(frozen=True)
class ProxiedAnswer:
    """The answer of an upstream."""

    status: int
    headers: list[tuple[str, str]]
    body: AsyncIterator[bytes]


class ReverseProxy:
    """Passes requests on to one upstream, without the caller's credentials.

    Args:
        url: of the upstream.
        prefix: path below which it is found here, such as "/mlflow".
        headers: added to each request, made anew each time: the upstream's own token.
        transport: for tests.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        headers: Callable[[], Mapping[str, str]] = dict,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = httpx.URL(url)
        self._prefix = prefix
        self._headers = headers
        # A proxy of the environment has no way to the inside; redirects are the browser's affair.
        self._http = httpx.AsyncClient(transport=transport, timeout=_TIMEOUT, trust_env=False, follow_redirects=False)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def send(
        self, method: str, path: str, query: bytes, headers: Iterable[tuple[str, str]], body: AsyncIterator[bytes]
    ) -> ProxiedAnswer:
        """Passes a request on.

        Args:
            method: of HTTP.
            path: below the upstream's address, decoded.
            query: as it came.
            headers: as they came.
            body: as it comes.

        Returns:
            The upstream's answer, whose body must be read to its end or closed.

        Raises:
            UpstreamError: it does not answer, or what is asked for can't be passed on.
            BodyTooLargeError: the body has more than 10 MB.
        """
        content = b""
        async for piece in body:
            content += piece
            if len(content) > MOST_BODY:
                raise BodyTooLargeError(f"the body is larger than {MOST_BODY:,} bytes")
        given = list(headers)
        named = {
            name.strip().lower() for key, value in given if key.lower() == "connection" for name in value.split(",")
        }
        sent = [
            (name, value)
            for name, value in given
            if name.lower() not in _NOT_SENT | named and not name.lower().startswith(("x-forwarded-", "seqae-"))
        ]
        try:
            url = self._url.copy_with(path=f"{self._url.path.rstrip('/')}/{path}", query=query or None)
            request = self._http.build_request(
                method, url, headers=[*sent, *self._headers().items()], content=content or None
            )
            answer = await self._http.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            raise UpstreamError(f"{self._prefix} does not answer: {type(error).__name__}") from error
        kept = [(name, value) for name, value in answer.headers.multi_items() if name not in _NOT_ANSWERED]
        return ProxiedAnswer(answer.status_code, [self._moved(name, value) for name, value in kept], _pieces(answer))

    def _moved(self, name: str, value: str) -> tuple[str, str]:
        """A header of the answer; where it redirects below the upstream, below our prefix."""
        if name != "location":
            return name, value
        own = str(self._url).rstrip("/")
        below = value.removeprefix(own) if value.startswith(own) else value
        if re.match(r"/(?!/)", below):
            return name, self._prefix + below
        # Elsewhere than the upstream nobody is sent.
        return name, below if re.match(r"[\w.%-]", below) and ":" not in below else f"{self._prefix}/"


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        # As it is encoded: its header says how.
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()
