"""The stack, with small real daemons in place of MLflow, Ray and the control plane."""

import fcntl
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from jobs.directory.storage_marker import read_marker
from service.errors import StackError
from service.local import home
from service.local.daemons import Daemon, http_url
from service.local.home import DaemonName, HomeLayout
from service.local.host import Host, this_host
from service.local.join_ticket import read_ticket
from service.local.node_addresses import outward_ip
from service.local.ports import HOST, PortName, free_port
from service.local.processes import SessionLeader, environment_of, members
from service.local.record import StackRecord, load_record, save_record
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
        home: Path | None = None,
        data_dir: Path | None = None,
        node_ip: str | None = None,
    ) -> Stack: ...


def _daemon(layout: HomeLayout, name: DaemonName, program: str, port: int) -> Daemon:
    ready_timeout = 1.0 if program == SILENT else 60.0
    url = http_url(port)
    command = (sys.executable, "-c", program, str(port))
    cwd = layout.logs
    return Daemon(name, name, command, url, url, cwd, (port,), ready_timeout=ready_timeout, tries=2, grace=1.0)


def _silently(_: str) -> None:
    """Drops a line of progress."""


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[MakeStack]:
    """Stacks of one home folder, on free ports; whatever a test leaves behind is ended."""
    made: list[Stack] = []
    free = {PortName.RAY: free_port(None, set())}
    free[PortName.API] = free_port(None, set(free.values()))

    def make(
        programs: Mapping[DaemonName, str] | None = None,
        *,
        ports: Mapping[PortName, int] | None = None,
        say: Callable[[str], None] = _silently,
        home: Path | None = None,
        data_dir: Path | None = None,
        node_ip: str | None = None,
    ) -> Stack:
        chosen = {DaemonName.RAY: DAEMON, DaemonName.API: DAEMON, **(programs or {})}

        def build(
            layout: HomeLayout, ports: Mapping[PortName, int], data: Path | None, _: str | None
        ) -> tuple[Daemon, ...]:
            environment = {} if data is None else {"SEQAE_DATA_DIR": str(data)}
            parts = (_daemon(layout, name, program, ports[PortName(name)]) for name, program in chosen.items())
            return tuple(replace(daemon, environment=environment) for daemon in parts)

        stack = Stack(home or tmp_path, data_dir, free if ports is None else ports, say, build, node_ip)
        made.append(stack)
        return stack

    yield make
    for stack in made:
        left = _living(stack)
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


def test_a_head_writes_down_how_machines_join(make_stack: MakeStack) -> None:
    """The join token file is there while machines may join, for its owner alone; a later `up` keeps the address."""
    try:
        own = outward_ip()
    except StackError:
        pytest.skip("this machine has no address but the loopback's")
    said: list[str] = []
    stack = make_stack(node_ip=own, say=said.append)
    stack.up()
    layout = stack.layout
    ticket = read_ticket(layout.join_token)
    address = f"{own}:{load_record(layout).ports[PortName.RAY_GCS]}"
    assert (ticket.head_address, ticket.storage) == (address, str(layout.home))
    assert ticket.ray_token == layout.token.read_text()
    assert ticket.storage_marker == read_marker(layout.home)
    assert said[-1] == f"other machines join with `seqae join {address} --token-file {layout.join_token}`"
    assert make_stack().up() == ()
    with pytest.raises(StackError, match=f"listens for machines at {own}"):
        make_stack(node_ip=HOST).up()
    stack.down()
    assert not layout.join_token.exists()
    make_stack(ports={}).up()
    assert read_ticket(layout.join_token) == ticket, "as before"
    make_stack().down()
    make_stack(node_ip=HOST).up()
    assert not layout.join_token.exists()
    assert load_record(layout).node_ip is None
    with pytest.raises(StackError, match="takes no other machines"):
        make_stack(node_ip=own).up()
    make_stack().down()


def test_a_head_at_an_address_that_is_gone_does_not_start(make_stack: MakeStack) -> None:
    stack = make_stack(node_ip="203.0.113.77")
    with pytest.raises(StackError, match="no address of this machine"):
        stack.up()
    assert _living(stack) == []
    assert not stack.layout.join_token.exists()


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
        build=lambda layout, ports, *_: (
            _daemon(layout, DaemonName.RAY, DAEMON, ports[PortName.RAY]),
            _daemon(layout, DaemonName.API, DAEMON, ports[PortName.API]),
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


# --- one home by many names


@pytest.mark.parametrize("alias", ["link", "a/../home", "link/."])
def test_a_home_is_one_stack_by_all_its_names(make_stack: MakeStack, tmp_path: Path, alias: str) -> None:
    """B1: `up` by an alias keeps what runs, `status` shows it, `down` ends it."""
    home = tmp_path / "home"
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(home)
    stack = make_stack(home=home)
    stack.up()
    before = _pids(stack)
    other = make_stack(home=tmp_path / alias)
    assert other.up() == ()
    assert _pids(other) == before
    assert api_url(tmp_path / alias) == api_url(home)
    other.down()
    assert _living(stack) == []
    assert not stack.layout.ray_temp.exists()


def test_a_stack_that_was_started_by_a_links_name_is_found(make_stack: MakeStack, tmp_path: Path) -> None:
    """B1: an earlier release made the marks from the path as it was given, and recorded neither key nor host."""
    stack = make_stack(home=tmp_path / "home")
    stack.layout.make_home()
    save_record(stack.layout, StackRecord(key="0ld0ld0ld0"))
    stack.up()
    before, living = _pids(stack), [process.pid for process in _living(stack)]
    assert len(living) == 4
    old = json.loads(stack.layout.state.read_text())
    leaders = {name: {"pid": one["pid"], "started": one["started"]} for name, one in old["leaders"].items()}
    stack.layout.state.write_text(json.dumps({"ports": old["ports"], "leaders": leaders}))
    again = make_stack(home=tmp_path / "home")
    assert again.up() == ()
    assert _pids(again) == before
    again.down()
    assert not any(_lives(pid) for pid in living)


@pytest.mark.parametrize("is_old", [False, True])
def test_a_copy_of_a_live_home_is_another_stack(make_stack: MakeStack, tmp_path: Path, is_old: bool) -> None:
    """B1: `down` of the copy must not end the original."""
    stack = make_stack(home=tmp_path / "home")
    stack.up()
    before = _pids(stack)
    shutil.copytree(stack.layout.home, tmp_path / "copy")
    copy = make_stack(home=tmp_path / "copy", ports={})
    if is_old:
        record = json.loads(copy.layout.state.read_text())
        copy.layout.state.write_text(json.dumps({"ports": {}, "leaders": record["leaders"]}))
    copy.down()
    assert copy.up() == ("ray", "api")
    assert _pids(stack) == before
    copy.down()
    assert _pids(stack) == before
    stack.down()


# --- clocks, hosts


def test_a_clock_that_was_set_restarts_nothing(make_stack: MakeStack) -> None:
    """B2: the record's time of day is another one than that which the system tells now."""
    stack = make_stack()
    stack.up()
    record = load_record(stack.layout)
    record.leaders = {name: replace(one, started=one.started - 3600) for name, one in record.leaders.items()}
    save_record(stack.layout, record)
    assert [daemon.health for daemon in make_stack().status()] == ["ready", "ready"]
    assert make_stack().up() == ()
    stack.down()


def _moved_to_another_host(stack: Stack, host: Host) -> Host:
    """Changes the host in the record; the one that was in it."""
    record = load_record(stack.layout)
    assert record.host is not None
    before, record.host = record.host, host
    save_record(stack.layout, record)
    return before


@pytest.mark.parametrize("is_container", [False, True])
def test_a_second_host_is_refused_and_told_the_first(make_stack: MakeStack, is_container: bool) -> None:
    """B3: two stacks on the same files destroy them; so does a `down` that ends nothing and forgets all."""
    stack = make_stack()
    stack.up()
    other = replace(this_host(), name="bob", pid_namespace="pid:[1]")
    first = _moved_to_another_host(stack, other if is_container else Host("bob", "machine", "boot", "pid:[1]"))
    record = stack.layout.state.read_bytes()
    for act in (make_stack().up, make_stack().down):
        with pytest.raises(StackError, match=r"host bob.*--takeover"):
            act()
    assert [daemon.pid for daemon in make_stack().status()] == [None, None]
    assert all("maybe on host bob" in daemon.health for daemon in make_stack().status())
    assert stack.layout.state.read_bytes() == record
    if not is_container:
        with pytest.raises(StackError, match="host bob"):
            api_url(stack.layout.home)
    _moved_to_another_host(stack, first)
    assert make_stack().up() == ()
    stack.down()


def test_a_host_that_is_gone_for_good_can_be_followed(make_stack: MakeStack) -> None:
    """B3: the user says so, since nobody else can know."""
    stack = make_stack()
    stack.layout.make_home()
    leaders = {DaemonName.API: SessionLeader(1, 2.0, 3, "boot")}
    save_record(stack.layout, StackRecord(leaders=leaders, host=Host("bob", "machine", "boot", "pid:[1]")))
    assert stack.up(takeover=True) == ("ray", "api")
    assert make_stack().up() == ()
    stack.down()


# --- what is refused is not kept


def _files(home: Path) -> set[str]:
    return {path.name for path in home.rglob("*")} if home.exists() else set()


@pytest.mark.parametrize("wrong", ["no port", "in use", "twice"])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_port_that_can_not_be_had_is_said_and_not_kept(
    make_stack: MakeStack, tmp_path: Path, wrong: str, is_new: bool
) -> None:
    """B4: the next `up` is not to stumble over it."""
    home = tmp_path / "home"
    if not is_new:
        stack = make_stack(home=home)
        stack.up()
        stack.down()
    before = _files(home)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = {"no port": 99_999, "in use": other.getsockname()[1], "twice": 4000}[wrong]
        ports = {PortName.API: port, **({PortName.RAY: port} if wrong == "twice" else {})}
        with pytest.raises(StackError) as caught:
            make_stack(home=home, ports=ports).up()
    assert "\n" not in str(caught.value)
    assert str(port) in str(caught.value)
    assert _files(home) == before
    again = make_stack(home=home, ports={})
    assert again.up() == ("ray", "api")
    again.down()


def test_ports_of_a_start_that_failed_are_not_kept(make_stack: MakeStack) -> None:
    """B4: whatever it failed by."""
    stack = make_stack({DaemonName.API: BROKEN})
    with pytest.raises(StackError):
        stack.up()
    assert load_record(stack.layout).ports == {}
    assert stack.status() == ()


def test_another_data_folder_for_a_running_stack_is_refused(make_stack: MakeStack, tmp_path: Path) -> None:
    """B10: with the cure; the same folder by another name is no other one."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (tmp_path / "alias").symlink_to(first)
    stack = make_stack(home=tmp_path / "home", data_dir=first)
    stack.up()
    with pytest.raises(StackError, match=r"first; to give it .*second, `seqae down` first"):
        make_stack(home=tmp_path / "home", data_dir=second).up()
    for same in (None, first, tmp_path / "alias"):
        assert make_stack(home=tmp_path / "home", data_dir=same).up() == ()
    os.kill(_pids(stack)[DaemonName.API] or 0, signal.SIGKILL)
    again = make_stack(home=tmp_path / "home")
    assert again.up() == ("api",)
    leader = load_record(again.layout).leaders[DaemonName.API]
    assert environment_of(leader)["SEQAE_DATA_DIR"] == str(tmp_path / "first"), "it comes back as it was"
    stack.down()


def test_a_data_folder_for_a_running_stack_without_one_is_refused(make_stack: MakeStack, tmp_path: Path) -> None:
    """B10: it would be ignored."""
    stack = make_stack()
    stack.up()
    with pytest.raises(StackError, match="runs with no data folder"):
        make_stack(data_dir=tmp_path / "mine").up()
    stack.down()


# --- Ray's folder


def test_down_removes_the_folder_that_up_has_made(
    make_stack: MakeStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B5, B6: wherever TMPDIR leads by then; its parent was closed to others."""
    first = make_stack()
    first.up()
    temp = load_record(first.layout).ray_temp
    assert temp is not None
    assert temp.is_dir()
    assert temp.parent.stat().st_mode & 0o077 == 0
    (temp / "session").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "other"))
    monkeypatch.setattr(home, "_base", lambda: tmp_path)
    make_stack().down()
    assert not temp.exists()


def test_a_folder_of_an_earlier_release_is_removed_too(
    make_stack: MakeStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B5: it lay right below the folder for temporary files, and was not recorded."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    stack = make_stack(home=tmp_path / "home")
    stack.up()
    record = load_record(stack.layout)
    shutil.rmtree(stack.layout.ray_temp)
    record.ray_temp = None
    save_record(stack.layout, record)
    old = tmp_path / f"seqae-{stack.layout.key}"
    old.mkdir()
    make_stack(home=tmp_path / "home").down()
    assert not old.exists()
