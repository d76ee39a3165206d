"""Which processes belong to a daemon."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from service.local.processes import (
    MARK,
    SessionLeader,
    age,
    alive,
    environment_of,
    members,
    start,
    working_directory,
)

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
        record = SessionLeader.of(leader.pid)
        child = _until(process.children)[0]
        _until(lambda: child.name() == "sleep")
        assert {found.pid for found in members("a:b", record)} == {leader.pid, child.pid}
        assert {found.pid for found in members("a:b", None)} == {leader.pid}
        assert alive(record, "a:b")
        assert not alive(record, "another:mark")
        child.kill()
    finally:
        leader.communicate()


@pytest.fixture
def sleeper() -> Iterator[int]:
    """Id of a process with the mark a:b, which leads a session."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=True, env={"PATH": os.environ["PATH"], MARK: "a:b"})
    _until(lambda: MARK in psutil.Process(process.pid).environ())
    yield process.pid
    process.kill()
    process.wait()


def test_a_clock_that_is_set_changes_nothing(sleeper: int) -> None:
    """B2: the time of day moves by NTP, by hand and after a suspend; ticks since the boot don't."""
    leader = SessionLeader.of(sleeper)
    for seconds in (10.0, -10.0, 1e6):
        moved = replace(leader, started=leader.started + seconds)
        assert alive(moved, "a:b")
        assert [found.pid for found in members("a:b", moved)] == [sleeper]
    assert 0 <= age(leader) < 600


def test_another_process_with_the_same_id_is_not_the_leader(sleeper: int) -> None:
    """B2: ids are given again, most of all after a boot."""
    leader = SessionLeader.of(sleeper)
    assert leader.start_ticks is not None
    assert not alive(replace(leader, start_ticks=leader.start_ticks - 1), "a:b")
    assert not alive(replace(leader, boot_id="another"), "a:b")
    assert not alive(leader, "another:mark")


def test_a_record_of_an_older_release_is_compared_by_its_time(sleeper: int) -> None:
    """B2: such a record has nothing else."""
    started = psutil.Process(sleeper).create_time()
    assert alive(SessionLeader(sleeper, started + 1), "a:b")
    assert not alive(SessionLeader(sleeper, started + 10), "a:b")


def test_a_leader_that_has_ended_is_not_alive() -> None:
    process = subprocess.Popen(["true"], start_new_session=True)
    leader = SessionLeader.of(process.pid)
    process.wait()
    assert not alive(leader, "a:b")
    assert environment_of(leader) == {}
    with pytest.raises(OSError, match="nothing is known"):
        working_directory(leader)


def test_a_name_with_brackets_and_blanks_hides_no_start(tmp_path: Path) -> None:
    """B2: the kernel puts a process's name before what is read."""
    program = tmp_path / ") S 1 (x"
    shutil.copy("/bin/sleep", program)
    process = subprocess.Popen([program, "600"], start_new_session=True)
    try:
        _until(lambda: psutil.Process(process.pid).name() == program.name)
        found = SessionLeader.of(process.pid)
        assert found.start_ticks is not None
        assert abs(found.start_ticks - (SessionLeader.of(os.getpid()).start_ticks or 0)) < 1e6
        assert age(found) < 60
    finally:
        process.kill()
        process.wait()


def test_files_of_a_daemon_are_closed_to_others(tmp_path: Path) -> None:
    """E5: whatever umask the user has."""
    before = os.umask(0)
    try:
        program = "import pathlib; pathlib.Path('made').touch()"
        leader = start([sys.executable, "-c", program], os.environ, "a:b", tmp_path / "log", tmp_path)
    finally:
        os.umask(before)
    _until((tmp_path / "made").exists)
    assert leader.pid > 0
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("made", "log")} == {0o600}


def _until(ask: Callable[[], Found]) -> Found:
    deadline = time.monotonic() + 20
    while not (found := ask()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found
