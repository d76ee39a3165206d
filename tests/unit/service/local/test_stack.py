"""Starting, finding and ending daemons, with small real ones in place of MLflow, Ray and the control plane."""

import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from service.errors import StackError
from service.local.daemons import HOST, Daemon, HomeLayout, build_daemons, free_port
from service.local.processes import MARK, SessionLeader, alive, members
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

MakeStack = Callable[..., Stack]


def _part(name: str, program: str, port: int) -> Daemon:
    patience = 1.0 if program == SILENT else 60.0
    url = f"http://{HOST}:{port}"
    command = (sys.executable, "-c", program, str(port))
    return Daemon(name, name, command, url, url, (port,), patience=patience, tries=2, grace=1.0)


@pytest.fixture
def make_stack(tmp_path: Path) -> Iterator[MakeStack]:
    """Stacks of one home folder, on free ports; whatever a test leaves behind is ended."""
    layout = HomeLayout(tmp_path)
    ports = {"ray": free_port(None, set())}
    ports["api"] = free_port(None, set(ports.values()))

    def make(programs: Mapping[str, str] | None = None, **options: object) -> Stack:
        chosen = {"ray": DAEMON, "api": DAEMON, **(programs or {})}

        def build(_: HomeLayout, ports: Mapping[str, int], __: Path | None) -> tuple[Daemon, ...]:
            return tuple(_part(name, program, ports[name]) for name, program in chosen.items())

        given = {"ports": ports, "say": lambda _: None, **options}
        return Stack(tmp_path, build=build, **given)  # type: ignore[arg-type]

    yield make
    for name in ("ray", "api"):
        left = members(layout.mark(name), None)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=10)


def _pids(stack: Stack) -> dict[str, int | None]:
    return {part.name: part.pid for part in stack.status()}


def _living(stack: Stack) -> list[psutil.Process]:
    return [process for name in ("ray", "api") for process in members(stack.layout.mark(name), None)]


def test_up_starts_everything_and_down_leaves_nothing(make_stack: MakeStack) -> None:
    stack = make_stack()
    assert stack.up() == ("ray", "api")
    assert [part.health for part in stack.status()] == ["ready", "ready"]
    assert len(_living(stack)) == 4  # each with its child
    assert api_url(stack.layout.home) == stack.status()[1].url
    stack.down()
    assert _living(stack) == []
    assert [part.health for part in stack.status()] == ["not running", "not running"]
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


def test_a_killed_part_comes_back_where_it_was_and_the_others_stay(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.up()
    before, url = _pids(stack), api_url(stack.layout.home)
    orphans = [psutil.Process(before["api"]).children()[0].pid]
    os.kill(before["api"] or 0, signal.SIGKILL)
    assert make_stack(ports={}).up() == ("api",)
    after = _pids(stack)
    assert after["ray"] == before["ray"]
    assert after["api"] not in (None, before["api"])
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
    stack.down(only=("api",))
    assert [part.health for part in stack.status()] == ["ready", "not running"]
    stack.down()


def test_what_ignores_sigterm_is_ended_too(make_stack: MakeStack) -> None:
    stack = make_stack({"ray": STUBBORN})
    stack.up()
    stack.down()
    assert _living(stack) == []


def test_down_finds_what_runs_when_its_record_is_lost(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.up()
    stack.layout.state.unlink()
    stack.down()
    assert _living(stack) == []


def test_a_part_that_ends_by_itself_is_told_with_its_last_words_and_nothing_stays(make_stack: MakeStack) -> None:
    stack = make_stack({"api": BROKEN})
    with pytest.raises(StackError, match="the disk is on fire"):
        stack.up()
    assert _living(stack) == []


def test_a_part_that_gives_up_may_try_again(make_stack: MakeStack) -> None:
    stack = make_stack({"ray": FLAKY})
    assert stack.up() == ("ray", "api")
    assert [part.health for part in stack.status()] == ["ready", "ready"]
    assert len(_living(stack)) == 4
    stack.down()


def test_a_part_that_is_never_ready_is_given_up(make_stack: MakeStack) -> None:
    stack = make_stack({"api": SILENT})
    with pytest.raises(StackError, match="api is not ready after"):
        stack.up()
    assert _living(stack) == []


def test_a_failed_up_keeps_what_ran_before(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.up()
    before = _pids(stack)
    os.kill(before["api"] or 0, signal.SIGKILL)
    with pytest.raises(StackError):
        make_stack({"api": BROKEN}).up()
    assert _pids(stack) == {"ray": before["ray"], "api": None}
    stack.down()


def test_a_port_in_use_is_told(make_stack: MakeStack) -> None:
    first = make_stack()
    first.up()
    taken = {"api": free_port(None, set()), "ray": int(api_url(first.layout.home).rpartition(":")[2])}
    other = Stack(
        first.layout.home / "other",
        ports=taken,
        say=lambda _: None,
        build=lambda _, ports, __: (_part("ray", DAEMON, ports["ray"]), _part("api", DAEMON, ports["api"])),
    )
    with pytest.raises(StackError, match="taken by another program"):
        other.up()
    assert not other.layout.ray_temp.exists()
    first.down()


def test_a_running_part_is_not_moved(make_stack: MakeStack) -> None:
    stack = make_stack()
    stack.up()
    with pytest.raises(StackError, match="`seqae down` first"):
        make_stack(ports={"api": free_port(None, set())}).up()
    assert all(part.ready for part in stack.status())
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


def _until(ask: Callable[[], object]) -> list[psutil.Process]:
    deadline = time.monotonic() + 20
    while not (found := ask()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found  # type: ignore[return-value]


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


def test_the_real_parts_stay_on_this_machine_and_keep_their_secret(tmp_path: Path) -> None:
    layout = HomeLayout(tmp_path)
    layout.prepare()
    ports = {"ray": 1, "ray_gcs": 2, "ray_client": 3, "mlflow": 4, "api": 5}
    try:
        parts = {part.name: part for part in build_daemons(layout, ports, tmp_path / "mine")}
    finally:
        layout.ray_temp.rmdir()
    assert {port for part in parts.values() for port in part.ports} == set(ports.values())
    assert all(part.url.startswith("http://127.0.0.1:") for part in parts.values())
    assert layout.token.stat().st_mode & 0o777 == 0o600
    secret = layout.token.read_text()
    assert not any(secret in word for part in parts.values() for word in part.command)
    assert parts["api"].environment["SEQAE_MLFLOW_URL"] == parts["mlflow"].url
    assert parts["api"].environment["SEQAE_RAY_URL"] == parts["ray"].url
    assert parts["api"].environment["SEQAE_DATA_DIR"] == str(tmp_path / "mine")
    # Ray's sockets are some 70 characters below its folder, and a socket's path may have 107.
    assert len(str(layout.ray_temp)) < 107 - 70
