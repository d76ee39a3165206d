"""Addresses that a request may be sent to whose receiver is named from outside: none of the inside (SSRF)."""

import ipaddress
import socket
from collections.abc import Collection

__all__ = ["Network", "is_allowed", "resolve_host"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def resolve_host(host: str, port: int) -> list[str]:
    """Addresses of a host. Raises: OSError: it has none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError("not a name") from error
    return [str(entry[4][0]) for entry in found]


def is_allowed(address: str, networks: Collection[Network]) -> bool:
    """Whether a delivery may go to an address: one of the public internet, or of these networks."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        # Other spellings of an address of version 4, among them those of a gateway.
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1] or _nat64(found)
        if inner is not None:
            found = inner
    if any(found in network for network in networks):
        return True
    return found.is_global and not found.is_multicast


def _nat64(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
