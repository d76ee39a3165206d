"""A machine that joins, with a small program in place of Ray."""

import os
import platform
import socket
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from jobs.cluster.drains import read_drains
from service.errors import StackError
from service.local import processes
from service.local.join_ticket import JoinTicket
from service.local.joined_node import JoinedNode, NodeSize
from service.local.node_addresses import outward_ip
from service.local.processes import members
from tests.unit.service.local.test_join_ticket import SECRET, make_ticket

JOINS = """
import os, pathlib, signal, subprocess, sys, time
token = pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"])
print(oct(token.stat().st_mode & 0o777), token.read_text(), os.environ["RAY_AUTH_MODE"])
print(os.environ["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
pathlib.Path(sys.argv[1]).write_text(token.read_text())
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("Ray runtime started.", flush=True)
"""
STAYS = JOINS + "time.sleep(600)"
REFUSED = "print('Ray version mismatch'); raise SystemExit(1)"


@pytest.fixture
def ticket(tmp_path: Path) -> Iterator[JoinTicket]:
    """Of a head that listens at this machine's address for others."""
    try:
        own = outward_ip()
    except StackError:
        pytest.skip("this machine has no address but the loopback's")
    with socket.create_server((own, 0)) as head:
        address = f"{own}:{head.getsockname()[1]}"
        yield make_ticket(tmp_path).model_copy(update={"head_address": address})


class Joining:
    """A machine that a test has join.

    Args:
        program: in place of Ray.
        interrupt: what the user does (Ctrl-C) once the machine belongs to the cluster.
    """

    def __init__(self, ticket: JoinTicket, seen: Path, program: str, *, interrupt: bool = True) -> None:
        self.said: list[str] = []
        self._interrupt = interrupt
        command = (sys.executable, "-c", program, str(seen))
        self.node = JoinedNode(ticket, SECRET, drain_seconds=3, say=self._say, command=command)

    def _say(self, line: str) -> None:
        self.said.append(line)
        if self._interrupt and "belongs to" in line:
            raise KeyboardInterrupt

    def assert_nothing_left(self) -> None:
        assert members(self.node.mark, None) == []
        assert not self.node._temp.exists()


def test_it_joins_and_leaves_nothing_behind(ticket: JoinTicket, tmp_path: Path) -> None:
    joining = Joining(ticket, tmp_path / "seen", STAYS)
    with pytest.raises(KeyboardInterrupt):
        joining.node.run()
    assert (tmp_path / "seen").read_text() == SECRET
    assert ticket.head_address in joining.said[0]
    assert joining.said[1] == "leaving the cluster; what runs here has 3 s"
    joining.assert_nothing_left()


def test_a_machine_that_leaves_is_seen_to(ticket: JoinTicket, tmp_path: Path) -> None:
    """As long as it drains, and no longer."""
    joining = Joining(ticket, tmp_path / "seen", STAYS)
    seen: list[frozenset[tuple[str, str]]] = []

    def watched(*_: object, **__: object) -> None:
        seen.append(read_drains(Path(ticket.storage)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.local.processes.end", watched)
        with pytest.raises(KeyboardInterrupt):
            joining.node.run()
    assert joining.node._leader is not None
    processes.end(joining.node.mark, joining.node._leader, grace=0)
    assert seen == [frozenset({(platform.node(), ticket.head_address.partition(":")[0])})]
    assert read_drains(Path(ticket.storage)) == frozenset()


def test_ray_that_ends_by_itself_is_told(ticket: JoinTicket, tmp_path: Path) -> None:
    joining = Joining(ticket, tmp_path / "seen", JOINS, interrupt=False)
    with pytest.raises(StackError, match=r"(?s)ended by itself.*0o600.*token\n.*3"):
        joining.node.run()
    joining.assert_nothing_left()


def test_ray_that_does_not_start_is_told(ticket: JoinTicket, tmp_path: Path) -> None:
    joining = Joining(ticket, tmp_path / "seen", REFUSED)
    with pytest.raises(StackError, match=r"(?s)did not start.*Ray version mismatch"):
        joining.node.run()
    joining.assert_nothing_left()


def test_nothing_starts_where_something_differs(
    ticket: JoinTicket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("service.local.processes.start", refused)
    other = ticket.versions.model_copy(update={"python": "2.7.18"})
    with socket.create_server(("127.0.0.1", 0)) as loopback:
        at_loopback = f"127.0.0.1:{loopback.getsockname()[1]}"
        for update, why in (
            ({"versions": other}, "python is"),
            ({"storage_marker": "0" * 32}, "another folder"),
            ({"head_address": at_loopback}, "loopback address, which no other machine can reach"),
            ({"head_address": "no address"}, "no address of a head"),
        ):
            joining = Joining(ticket.model_copy(update=update), tmp_path / "seen", STAYS)
            with pytest.raises(StackError, match=why):
                joining.node.run()
            joining.assert_nothing_left()
    with pytest.raises(StackError, match="does not answer"):
        Joining(ticket.model_copy(update={"head_address": at_loopback}), tmp_path / "seen", STAYS).node.run()
    with pytest.raises(StackError, match="no address of this machine"):
        JoinedNode(ticket, SECRET, node_ip="203.0.113.77").run()


def test_how_ray_is_called(ticket: JoinTicket) -> None:
    words = JoinedNode(ticket, SECRET, NodeSize(cpus=2.5, gpus=0), name="left")._ray_command("10.0.0.6")
    assert words[0].endswith(f"{os.sep}ray")
    assert SECRET not in " ".join(words)
    options = dict(pairwise(words))
    assert options["--address"] == ticket.head_address
    assert (options["--node-ip-address"], options["--node-name"]) == ("10.0.0.6", "left")
    assert (options["--num-cpus"], options["--num-gpus"]) == ("2.5", "0")
    assert "--num-cpus" not in JoinedNode(ticket, SECRET)._ray_command("10.0.0.6")
