"""The stack, with small real daemons in place of MLflow, Ray and the control plane."""

import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from service.errors import StackError
from service.local.daemons import HOST, Daemon, DaemonName, HomeLayout, PortName, free_port
from service.local.processes import members
from service.local.stack import Stack, api_url

# A daemon that answers 200, and has a child in a session of its own that outlives it, as drivers of Ray's jobs do.
DAEMON = """
import http.server, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
server.serve_forever()
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + DAEMON
# Gives up the first time, as Ray does on a busy machine.
FLAKY = (
    "import pathlib, sys\ntried = pathlib.Path('tried')\nif not tried.exists():\n    tried.touch()\n    sys.exit(1)\n"
    + DAEMON
)
BROKEN = "print('the disk is on fire'); raise SystemExit(3)"
SILENT = "import time; time.sleep(600)"


class MakeStack(Protocol):
    """Makes a stack of the test's home folder, with one daemon for each program."""

    def __call__(
        self,
        programs: Mapping[DaemonName, str] | None = None,
        *,
        ports: Mapping[PortName, int] | None = None,
        say: Callable[[str], None] = ...,
    ) -> Stack: ...


def _daemon(name: DaemonName, program: str, port: int) -> Daemon:
    ready_timeout = 1.0 if program == SILENT else 60.0
    url = f"http://{HOST}:{port}"
    command = (sys.executable, "-c", program, str(port))
    return Daemon(name, name, command, url, url, (port,), ready_timeout=ready_timeout, tries=2, grace=1.0)


def _silently(_: str) -> None:
    """Drops a line of progress."""


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[MakeStack]:
    """Stacks of one home folder, on free ports; whatever a test leaves behind is ended."""
    layout = HomeLayout(tmp_path)
    free = {PortName.RAY: free_port(None, set())}
    free[PortName.API] = free_port(None, set(free.values()))

    def make(
        programs: Mapping[DaemonName, str] | None = None,
        *,
        ports: Mapping[PortName, int] | None = None,
        say: Callable[[str], None] = _silently,
    ) -> Stack:
        chosen = {DaemonName.RAY: DAEMON, DaemonName.API: DAEMON, **(programs or {})}

        def build(_: HomeLayout, ports: Mapping[PortName, int], __: Path | None) -> tuple[Daemon, ...]:
            return tuple(_daemon(name, program, ports[PortName(name)]) for name, program in chosen.items())

        return Stack(tmp_path, ports=free if ports is None else ports, say=say, build=build)

    yield make
    for name in (DaemonName.RAY, DaemonName.API):
        left = members(layout.mark(name), None)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=10)


def _pids(stack: Stack) -> dict[DaemonName, int | None]:
    return {daemon.name: daemon.pid for daemon in stack.status()}


def _living(stack: Stack) -> list[psutil.Process]:
    return [process for name in (DaemonName.RAY, DaemonName.API) for process in members(stack.layout.mark(name), None)]


def test_up_starts_everything_and_down_leaves_nothing(make_stack: MakeStack) -> None:
    stack = make_stack()
    assert stack.up() == ("ray", "api")
    assert [daemon.health for daemon in stack.status()] == ["ready", "ready"]
    assert len(_living(stack)) == 4  # each with its child
    assert api_url(stack.layout.home) == stack.status()[1].url
    stack.down()
    assert _living(stack) == []
    assert [daemon.health for daemon in stack.status()] == ["not running", "not running"]
    assert not stack.layout.ray_temp.exists()


def test_up_twice_is_harmless_also_from_another_process(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.up()
    before = _pids(stack)
    assert make_stack().up() == ()
    assert _pids(stack) == before
    stack.down()


def _lives(pid: int) -> bool:
    """A process that has ended counts as gone, also where the machine's first process is slow to reap it."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_killed_daemon_comes_back_where_it_was_and_the_others_stay(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.up()
    before, url = _pids(stack), api_url(stack.layout.home)
    orphans = [psutil.Process(before[DaemonName.API]).children()[0].pid]
    os.kill(before[DaemonName.API] or 0, signal.SIGKILL)
    assert make_stack(ports={}).up() == ("api",)
    after = _pids(stack)
    assert after[DaemonName.RAY] == before[DaemonName.RAY]
    assert after[DaemonName.API] not in (None, before[DaemonName.API])
    assert api_url(stack.layout.home) == url
    assert not any(_lives(pid) for pid in orphans)
    stack.down()


def test_down_twice_and_down_without_a_stack_are_harmless(make_stack: MakeStack, tmp_path: Path) -> None:
    make_stack().down()
    Stack(tmp_path / "never made").down()
    assert not (tmp_path / "never made").exists()
    assert Stack(tmp_path / "never made").status() == ()


def test_down_ends_only_what_it_is_told_to(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.up()
    stack.down(only=(DaemonName.API,))
    assert [daemon.health for daemon in stack.status()] == ["ready", "not running"]
    stack.down()


def test_what_ignores_sigterm_is_ended_too(make_stack: MakeStack) -> None:
    stack = make_stack({DaemonName.RAY: STUBBORN})
    stack.up()
    stack.down()
    assert _living(stack) == []


def test_down_finds_what_runs_when_its_record_is_lost(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.up()
    stack.layout.state.unlink()
    stack.down()
    assert _living(stack) == []


def test_a_daemon_that_ends_by_itself_is_told_with_its_last_words_and_nothing_stays(make_stack: MakeStack) -> None:
    stack = make_stack({DaemonName.API: BROKEN})
    with pytest.raises(StackError, match="the disk is on fire"):
        stack.up()
    assert _living(stack) == []


def test_a_daemon_that_gives_up_may_try_again(make_stack: MakeStack) -> None:
    stack = make_stack({DaemonName.RAY: FLAKY})
    assert stack.up() == ("ray", "api")
    assert [daemon.health for daemon in stack.status()] == ["ready", "ready"]
    assert len(_living(stack)) == 4
    stack.down()


def test_a_daemon_that_is_never_ready_is_given_up(make_stack: MakeStack) -> None:
    stack = make_stack({DaemonName.API: SILENT})
    with pytest.raises(StackError, match="api is not ready after"):
        stack.up()
    assert _living(stack) == []


def test_a_failed_up_keeps_what_ran_before(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.up()
    before = _pids(stack)
    os.kill(before[DaemonName.API] or 0, signal.SIGKILL)
    with pytest.raises(StackError):
        make_stack({DaemonName.API: BROKEN}).up()
    assert _pids(stack) == {"ray": before[DaemonName.RAY], "api": None}
    stack.down()


def test_a_port_in_use_is_told(make_stack: MakeStack) -> None:
    first = make_stack()
    first.up()
    taken = {PortName.API: free_port(None, set()), PortName.RAY: int(api_url(first.layout.home).rpartition(":")[2])}
    other = Stack(
        first.layout.home / "other",
        ports=taken,
        say=_silently,
        build=lambda _, ports, __: (
            _daemon(DaemonName.RAY, DAEMON, ports[PortName.RAY]),
            _daemon(DaemonName.API, DAEMON, ports[PortName.API]),
        ),
    )
    with pytest.raises(StackError, match="taken by another program"):
        other.up()
    assert not other.layout.ray_temp.exists()
    first.down()


def test_a_running_daemon_is_not_moved(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.up()
    with pytest.raises(StackError, match="`seqae down` first"):
        make_stack(ports={PortName.API: free_port(None, set())}).up()
    assert all(daemon.ready for daemon in stack.status())
    stack.down()


def test_ctrl_c_while_it_starts_leaves_nothing(make_stack: MakeStack) -> None:
    def interrupt(line: str) -> None:
        if line == "api: starting":
            raise KeyboardInterrupt

    stack = make_stack(say=interrupt)
    with pytest.raises(KeyboardInterrupt):
        stack.up()
    assert _living(stack) == []
    assert not stack.layout.ray_temp.exists()


def test_a_process_that_was_given_the_recorded_id_is_not_ours(make_stack: MakeStack) -> None:
    stack = make_stack()
    stranger = subprocess.Popen([sys.executable, "-c", SILENT], start_new_session=True)
    try:
        started = psutil.Process(stranger.pid).create_time()
        for seconds in (0.0, -1000.0):  # the record's start time fits by chance, or does not
            leaders = {"api": {"pid": stranger.pid, "started": started + seconds}}
            stack.layout.home.mkdir(exist_ok=True)
            ports = {"ray": 1, "api": 2}
            stack.layout.state.write_text(json.dumps({"ports": ports, "leaders": leaders}))
            stack.down()
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_two_ups_at_once_start_one_stack(make_stack: MakeStack) -> None:
    started: list[tuple[str, ...]] = []
    threads = [threading.Thread(target=lambda: started.append(make_stack().up())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(len, started)) == [0, 0, 2]
    assert len(_living(make_stack())) == 4
    make_stack().down()


def test_nothing_is_made_before_the_lock_is_held(make_stack: MakeStack) -> None:
    said: queue.Queue[str] = queue.Queue()
    stack = make_stack(say=said.put)
    starter = threading.Thread(target=stack.up)
    with stack.layout.lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        starter.start()
        assert "waiting for it" in said.get(timeout=60)
        assert sorted(path.name for path in stack.layout.home.iterdir()) == [stack.layout.lock.name]
    starter.join(60)
    assert stack.layout.token.read_text()
    stack.down()


def test_a_damaged_record_is_told(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.layout.home.mkdir(exist_ok=True)
    stack.layout.state.write_text('{"ports": ')
    with pytest.raises(StackError, match=r"stack\.json is damaged"):
        stack.up()
