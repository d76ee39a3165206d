"""Two nodes of a cluster on this machine, by the commands that users have; one of them leaves under a training."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.cluster.nodes import NodeState, ProcessRole
from service.client import Client
from service.errors import StackError
from service.job_state import State
from service.local.join_ticket import read_ticket
from service.local.node_addresses import outward_ip
from service.local.stack import api_url
from service.schemas.cluster import NodeView
from tests.daemons import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class TwoMachines:
    """A head and a second machine, both here, with the folder that they share.

    Args:
        home: of the stack.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._command("up", "--head", "--node-ip", outward_ip(), timeout=300)
        self.client = Client(api_url(home))
        self.head_address = read_ticket(home / "join.token").head_address
        join = ("join", self.head_address, "--cpus", "1", "--name", "second", "--drain-seconds", "5")
        self.second = subprocess.Popen(self._words(*join), stdout=subprocess.PIPE, text=True, env=_environment())

    def _words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "service.cli.main", *words, "--home", str(self.home)]

    def _command(self, *words: str, timeout: float = 120) -> str:
        done = subprocess.run(self._words(*words), capture_output=True, text=True, timeout=timeout, env=_environment())
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def printed_nodes(self) -> str:
        """What `seqae nodes` prints."""
        return self._command("nodes")

    def node(self, name: str) -> NodeView | None:
        """A machine by name; None: the cluster knows none."""
        return next((node for node in self.client.nodes().nodes if node.name == name), None)

    def ranks(self) -> dict[int, str]:
        """The machine of each rank that runs."""
        return {
            work.rank: node.name for node in self.client.nodes().nodes for work in node.work if work.rank is not None
        }

    def end(self) -> None:
        """Ends both machines."""
        if self.second.poll() is None:
            self.second.send_signal(signal.SIGTERM)
            self.second.wait(timeout=60)
        self.client.close()
        self._command("down")


def _environment() -> dict[str, str]:
    return {**os.environ, "SEQAE_INFERENCE": "false", "PYTHONPATH": os.getcwd()}  # noqa: PTH109 - as the shell has it


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[TwoMachines]:
    try:
        outward_ip()
    except StackError:
        pytest.skip("this machine has no address but the loopback's")
    made = TwoMachines(tmp_path / "home")
    try:
        yield made
    finally:
        made.end()


def test_a_machine_leaves_and_the_training_goes_on(machines: TwoMachines, tiny: dict[str, Any]) -> None:
    client = machines.client
    wait_until(lambda: machines.node("second") is not None, "the second machine has joined")
    second = machines.node("second")
    assert second is not None
    assert (second.is_head, second.is_idle, second.cpus) == (False, True, 1)

    scaling = {"workers": {"min": 1, "max": 3}, "cpus_per_worker": 1}
    job = client.submit(tiny | {"schedule": tiny["schedule"] | {"epochs": 100_000}, "scaling": scaling}).id
    wait_until(lambda: set(machines.ranks()) == {0, 1, 2}, "three ranks run on two machines")
    assert sorted(machines.ranks().values()).count("second") == 1
    head = next(node for node in client.nodes().nodes if node.is_head)
    assert [(work.job_id, work.attempt) for work in head.work if work.role is ProcessRole.DRIVER] == [(job, 1)]
    assert f"{job}-1 rank" in next(line for line in machines.printed_nodes().splitlines() if line.startswith("second"))

    machines.second.send_signal(signal.SIGTERM)
    assert machines.second.wait(timeout=90) == 130
    printed = machines.second.stdout.read() if machines.second.stdout else ""
    assert "leaving the cluster" in printed

    def is_dead() -> bool:
        found = machines.node("second")
        return found is not None and found.state is NodeState.DEAD

    wait_until(is_dead, "the cluster has noticed that the machine is gone")
    wait_until(lambda: set(machines.ranks()) == {0, 1}, "two ranks go on")
    assert set(machines.ranks().values()) == {head.name}
    before = client.get(job)
    assert before.progress is not None
    reached = before.progress.iteration

    def goes_on() -> bool:
        now = client.get(job)
        assert now.state is State.RUNNING
        return now.progress is not None and now.progress.iteration > reached and now.progress.workers == 2

    wait_until(goes_on, "the job trains on with two workers")
    assert client.get(job).retries == 0
    line = next(line for line in machines.printed_nodes().splitlines() if line.startswith("second"))
    assert "dead" in line
    client.cancel(job)
    wait_until(lambda: client.get(job).state is State.CANCELLED, "the job is cancelled")
