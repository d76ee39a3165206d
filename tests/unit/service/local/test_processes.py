"""Which processes belong to a daemon."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import psutil

from service.local.processes import MARK, SessionLeader, alive, members

Found = TypeVar("Found")


def test_a_process_without_a_readable_environment_counts_by_its_session() -> None:
    """Some of Ray's processes write a title over their environment; here one has none to begin with."""
    program = "import subprocess, sys; subprocess.Popen(['sleep', '600'], env={}); sys.stdin.read()"
    leader = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env={"PATH": os.environ["PATH"], MARK: "a:b"},
    )
    try:
        process = psutil.Process(leader.pid)
        record = SessionLeader(leader.pid, process.create_time())
        child = _until(process.children)[0]
        _until(lambda: child.name() == "sleep")
        assert {found.pid for found in members("a:b", record)} == {leader.pid, child.pid}
        assert {found.pid for found in members("a:b", None)} == {leader.pid}
        assert alive(record, "a:b")
        assert not alive(record, "another:mark")
        child.kill()
    finally:
        leader.communicate()


def _until(ask: Callable[[], Found]) -> Found:
    deadline = time.monotonic() + 20
    while not (found := ask()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found
