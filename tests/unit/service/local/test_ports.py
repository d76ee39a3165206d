"""Which ports a stack may have."""

import socket

import pytest

from service.errors import StackError
from service.local.ports import HOST, PortName, check_usable, check_wanted, free_port, is_free


@pytest.mark.parametrize("port", [0, -1, 65_536, 99_999, 10**400])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    """B4: before anything is tried."""
    with pytest.raises(StackError, match="is no port for mlflow"):
        check_wanted({PortName.API: 8400, PortName.MLFLOW: port})


def test_two_daemons_need_two_ports() -> None:
    """B4: the second would find the first in its place."""
    with pytest.raises(StackError, match="port 8400 was given to"):
        check_wanted({PortName.API: 8400, PortName.MLFLOW: 8400})
    check_wanted({PortName.API: 1, PortName.MLFLOW: 65_535})


def test_a_port_in_use_is_refused() -> None:
    """B4: whichever address the other program listens on."""
    for host in (HOST, "0.0.0.0"):
        with socket.socket() as other:
            other.bind((host, 0))
            other.listen()
            port = other.getsockname()[1]
            assert not is_free(port)
            with pytest.raises(StackError, match=f"port {port} of MLflow is taken by another program"):
                check_usable("MLflow", port)
    free = free_port(None, set())
    check_usable("MLflow", free)
    assert free_port(free, {free}) != free
