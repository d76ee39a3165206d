"""ASGI middleware that refuses requests made by web pages of others: foreign `Host`, and writes of foreign origin.

A page that the user visits may send requests to services on the user's machine. Under a name of its own that leads to
127.0.0.1 (DNS rebinding) it could read the answers too: so a request must name this service by one of its names. A page
of another origin can't read answers, but write: so writes must come from a page of this service, or from no page.
"""

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from seqae.errors import Error
from service.api.problems import describe, render
from service.errors import ForeignHostError, ForeignOriginError

__all__ = ["RequestGuard"]

_SAFE_METHODS = ("GET", "HEAD")
_PROBED = ("/healthz", "/readyz", "/metrics")
"""Asked by load balancers, Kubernetes and Prometheus, which name a container by its address."""

_AUTHORITY = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:/?#@\s]+)(?::(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class RequestGuard:
    """ASGI middleware that answers 421 to a foreign `Host`, and 403 to a write of foreign origin.

    Args:
        app: what it guards.
        allowed_hosts: names of this service besides those of the loopback: "name" with any port, "name:port",
            "*.domain", or "*" for all.
        cors_origins: other origins whose pages may write.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str], cors_origins: Iterable[str] = ()) -> None:
        self._app = app
        self._allowed = [host.lower() for host in allowed_hosts]
        self._cors_origins = frozenset(cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, unless it is somebody else's."""
        error = self._refusal(scope) if scope["type"] == "http" else None
        if error is None:
            self._drop_foreign_cookie(scope)
            await self._app(scope, receive, send)
        else:
            await render(describe(scope["path"], error))(scope, receive, send)

    def _drop_foreign_cookie(self, scope: Scope) -> None:
        """Takes cookies out of a request of a page of another origin, one that may ask included.

        A browser sends them from another port of the same host, or from another name of the same site, and for the
        simple requests that change something it asks nobody before.
        """
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        host = _split(headers.get("host", ""))
        if any(not self._is_own_origin(origin, host) for origin in headers.getlist("origin")):
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"cookie"]

    def _refusal(self, scope: Scope) -> Error | None:
        headers = Headers(scope=scope)
        host = _split(headers.get("host", ""))
        is_read = scope["method"] in _SAFE_METHODS
        if not self._is_ours(host) and not (is_read and scope["path"] in _PROBED and _is_probe(host)):
            return ForeignHostError("this service is not known by the name in `Host`; SEQAE_ALLOWED_HOSTS lists more")
        if not is_read and self._is_foreign(headers, host):
            return ForeignOriginError("a web page of another origin may not change anything here")
        return None

    def _is_ours(self, host: tuple[str, str]) -> bool:
        name, port = host
        return name == "localhost" or _is_loopback(name) or any(_fits(name, port, entry) for entry in self._allowed)

    def _is_foreign(self, headers: Headers, host: tuple[str, str]) -> bool:
        origins = headers.getlist("origin")
        if len(origins) == 1 and origins[0] in self._cors_origins:
            return False
        # Browsers say so themselves; `same-site` is another port of the same machine. Other clients send neither.
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return True
        return any(not self._is_own_origin(origin, host) for origin in origins)

    def _is_own_origin(self, origin: str, host: tuple[str, str]) -> bool:
        try:
            parts = urlsplit(origin.lower())
        except ValueError:
            return False
        if parts.scheme not in _DEFAULT_PORTS:
            return False
        default = _DEFAULT_PORTS[parts.scheme]
        name, port = _split(parts.netloc)
        if (name, port or default) == (host[0], host[1] or default):
            return bool(name)
        # A proxy may have rewritten `Host`: then the page's own name is one of those that were configured.
        return any(entry != "*" and _fits(name, port, entry, any_port=False) for entry in self._allowed)


def _split(authority: str) -> tuple[str, str]:
    """Name and port of an authority such as "localhost:8400" or "[::1]"; empty where it is none."""
    found = _AUTHORITY.fullmatch(authority.lower())
    if found is None:
        return "", ""
    return found["name"].strip("[]").removesuffix("."), found["port"] or ""


def _fits(name: str, port: str, entry: str, *, any_port: bool = True) -> bool:
    """Whether a name and a port are those of an entry of the allowed hosts, which may leave the port open."""
    if not name:
        return False
    if entry == "*":
        return True
    try:
        wanted, wanted_port = str(ipaddress.ip_address(entry)), ""
    except ValueError:
        wanted, wanted_port = _split(entry)
    if port != wanted_port and (wanted_port or not any_port):
        return False
    return name.endswith(wanted[1:]) and name != wanted[1:] if wanted.startswith("*.") else name == wanted


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_probe(host: tuple[str, str]) -> bool:
    """Whether a host is an address, or not given: no page gets there by a name of its own."""
    if not host[0]:
        return False
    try:
        ipaddress.ip_address(host[0])
    except ValueError:
        return False
    return True
