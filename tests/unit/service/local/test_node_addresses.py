"""Addresses by which machines reach each other."""

import socket

import pytest

from service.errors import StackError
from service.local.node_addresses import check_node_ip, outward_ip, split_address


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "no other machine can reach it"),
        ("127.0.0.2", "loopback"),
        ("0.0.0.0", "every address"),
        ("203.0.113.77", "no address of this machine"),
        ("::1", "IPv6"),
        ("head.example", "no address"),
        ("", "no address"),
    ],
)
def test_an_address_that_others_can_not_reach_is_refused(address: str, why: str) -> None:
    with pytest.raises(StackError, match=why):
        check_node_ip(address)


def test_an_address_of_this_machine_is_taken() -> None:
    try:
        own = outward_ip()
    except StackError:
        pytest.skip("this machine has no address but the loopback's")
    assert check_node_ip(own) == own
    with pytest.raises(StackError, match=own.replace(".", r"\.")):
        check_node_ip("203.0.113.77")


def test_the_way_to_the_loopback_is_no_way_to_others() -> None:
    with pytest.raises(StackError, match="found no address"):
        outward_ip("127.0.0.1")


def test_asking_the_way_sends_nothing() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.05)
        with pytest.raises(StackError):
            outward_ip("127.0.0.1")
        with pytest.raises(TimeoutError):
            receiver.recv(1)


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:0", "host:65536", "host:-1", "host:1x", "host:\u0661"]
)
def test_what_is_no_address_of_a_head_is_refused(text: str) -> None:
    with pytest.raises(StackError, match="no address of a head"):
        split_address(text)


def test_an_address_of_a_head() -> None:
    assert split_address("10.0.0.5:6379") == ("10.0.0.5", 6379)
