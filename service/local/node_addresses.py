"""Addresses by which machines of a cluster reach each other: which ones this machine has, and which can be used."""

import ipaddress
import socket
from collections.abc import Iterator

import psutil

from service.errors import StackError

__all__ = ["check_node_ip", "join_address", "outward_ip", "split_address"]

_ELSEWHERE = "192.0.2.1"
"""An address for documentation (RFC 5737): asking the way to it sends nothing."""

_LARGEST_PORT = 65_535


def check_node_ip(address: str) -> str:
    """An address of this machine by which others can reach it.

    Raises:
        StackError: it is no such address, and the text says why.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError as error:
        raise StackError(f"--node-ip {address!r} is no address; name one like 10.0.0.5") from error
    if not isinstance(parsed, ipaddress.IPv4Address):
        raise StackError(f"--node-ip {address} is an address of IPv6; the cluster needs one of IPv4")
    if parsed.is_loopback:
        raise StackError(f"--node-ip {address} is a loopback address: no other machine can reach it; {_choice()}")
    if parsed.is_unspecified:
        raise StackError(f"--node-ip {address} means every address; Ray needs a single one; {_choice()}")
    if str(parsed) not in _own():
        raise StackError(f"--node-ip {address} is no address of this machine; {_choice()}")
    return str(parsed)


def outward_ip(peer: str = _ELSEWHERE) -> str:
    """The address of this machine from which a peer would be reached.

    Raises:
        StackError: there is no way to it, or it is this machine's loopback.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Without a packet: the kernel only looks up the way.
            probe.connect((peer, 9))
        except OSError as error:
            raise StackError(f"found no address of this machine for others; {_choice()}") from error
        found = str(probe.getsockname()[0])
    if ipaddress.ip_address(found).is_loopback:
        raise StackError(f"found no address of this machine for others; {_choice()}")
    return found


def split_address(text: str) -> tuple[str, int]:
    """Host and port of an address like `10.0.0.5:6379`.

    Raises:
        StackError: it is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= _LARGEST_PORT:
        raise StackError(f"{text[:100]!r} is no address of a head; it looks like 10.0.0.5:6379")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """An address of both."""
    return f"{host}:{port}"


def _own() -> frozenset[str]:
    return frozenset(_addresses())


def _addresses() -> Iterator[str]:
    for found in psutil.net_if_addrs().values():
        for one in found:
            if one.family == socket.AF_INET:
                yield one.address


def _choice() -> str:
    usable = sorted(address for address in _own() if not ipaddress.ip_address(address).is_loopback)
    return f"name one of {', '.join(usable)} with --node-ip" if usable else "this machine has no other address"
