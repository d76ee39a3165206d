"""Ports of the stack's daemons: their names, which ones can be used, and the search for free ones."""

import errno
import random
import socket
from collections.abc import Mapping
from enum import StrEnum

from service.errors import StackError

__all__ = ["HOST", "PREFERRED_PORTS", "PortName", "check_usable", "check_wanted", "free_port", "is_free", "is_port"]

HOST = "127.0.0.1"


class PortName(StrEnum):
    """The ports of the stack, as stack.json names them; a daemon's main port has the daemon's name."""

    RAY = "ray"
    """Of Ray's dashboard, which takes jobs."""
    MLFLOW = "mlflow"
    API = "api"
    RAY_GCS = "ray_gcs"
    """Of Ray's head."""
    RAY_CLIENT = "ray_client"
    """Of Ray's client server."""


PREFERRED_PORTS: Mapping[PortName, int | None] = {
    PortName.RAY: 8402,
    PortName.MLFLOW: 8401,
    PortName.API: 8400,
    PortName.RAY_GCS: None,
    PortName.RAY_CLIENT: None,
}
"""Tried first where no port was configured; None: any free one."""

_LARGEST = 65_535


def is_port(number: int) -> bool:
    """Whether a server could be told to listen on this number."""
    return 0 < number <= _LARGEST


def check_wanted(ports: Mapping[PortName, int]) -> None:
    """Refuses configured ports that no stack could have, whatever runs on this machine.

    Raises:
        StackError: a number is no port, or two daemons were given the same one.
    """
    for name, port in ports.items():
        if not is_port(port):
            raise StackError(f"{port} is no port for {name}: a port is between 1 and {_LARGEST}")
    for name, port in ports.items():
        same = [other for other in ports if other != name and ports[other] == port]
        if same:
            raise StackError(f"port {port} was given to {name} and to {same[0]}; each needs one of its own")


def check_usable(title: str, port: int) -> None:
    """Refuses a port that a server could not listen on now.

    Args:
        title: of the daemon that needs it.
        port: as it was configured, or as the daemon had it before.

    Raises:
        StackError: another program has it, or this user may not listen there.
    """
    problem = _problem(port)
    if problem is None:
        return
    if problem in (errno.EACCES, errno.EPERM):
        raise StackError(f"port {port} of {title} is reserved for the system's administrator; choose another")
    raise StackError(f"port {port} of {title} is taken by another program; free it, or choose another")


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    return _problem(port) is None


def free_port(preferred: int | None, taken: set[int]) -> int:
    """The preferred port, or another one that is free and not in `taken`.

    Raises:
        StackError: none is free.
    """
    # Below the range from which systems draw ports for outgoing connections: those could take it before we do.
    candidates = random.sample(range(20_000, 32_000), 100)
    for port in candidates if preferred is None else [preferred, *candidates]:
        if port not in taken and is_free(port):
            return port
    raise StackError(f"found no free port on {HOST}")


def _problem(port: int) -> int | None:
    """Error number of listening on a port; None when it works."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error.errno or errno.EADDRINUSE
    return None
