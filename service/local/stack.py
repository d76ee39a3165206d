"""The embedded stack: MLflow, Ray and the control plane as daemons of this machine, which outlive the command line.

`up` may be repeated: it keeps what runs and brings back what does not, on the port that it had. `down` leaves nothing.
What was started is written to `<home>/stack.json`; each daemon's output is in `<home>/logs`.
"""

import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from jobs.directory.files import write_atomically
from service.errors import StackError
from service.local import processes
from service.local.daemons import (
    HOST,
    PREFERRED_PORTS,
    Daemon,
    DaemonName,
    HomeLayout,
    PortName,
    build_daemons,
    free_port,
    is_free,
)

__all__ = ["DaemonStatus", "Stack", "api_url"]

Build = Callable[[HomeLayout, Mapping[PortName, int], Path | None], tuple[Daemon, ...]]

_POLL_SECONDS = 0.2
_LOG_TAIL = 15
_ANSWER_SECONDS = 10.0  # the control plane asks the others before it answers


class _State(BaseModel):
    """Content of stack.json: the ports of the daemons, and the processes that lead them."""

    ports: dict[PortName, int] = {}
    leaders: dict[DaemonName, processes.SessionLeader] = {}


@dataclass(frozen=True)
class DaemonStatus:
    """Whether a daemon runs and is ready, as `seqae status` shows it."""

    name: DaemonName
    title: str
    pid: int | None
    url: str
    health: str
    """"ready", "not ready: ..." or "not running"."""

    @property
    def ready(self) -> bool:
        """Whether it runs and does its work."""
        return self.health == "ready"


class Stack:
    """Process manager of one home folder's stack: MLflow, Ray and the control plane.

    Args:
        home: folder of everything it keeps.
        data_dir: the user's own data, for jobs that name paths in it.
        ports: the configured ones; the others keep the port they had, or get a free one.
        say: told about progress, a line at a time.
        build: makes the daemons from their ports; for tests.
    """

    def __init__(
        self,
        home: Path,
        data_dir: Path | None = None,
        ports: Mapping[PortName, int] | None = None,
        say: Callable[[str], None] = print,
        build: Build = build_daemons,
    ) -> None:
        self.layout = HomeLayout(home.expanduser().absolute())
        self._data_dir = None if data_dir is None else data_dir.expanduser().absolute()
        self._wanted = dict(ports or {})
        self._say = say
        self._build = build

    def up(self) -> tuple[DaemonName, ...]:
        """Starts what does not run, and waits until all of it is ready. Cut short, it ends what it started.

        Returns:
            Names of the daemons that it started.

        Raises:
            StackError: a daemon can't be started; the text ends with what the daemon printed last.
        """
        with self._locked():
            self.layout.prepare()
            state = _load(self.layout)
            started: list[Daemon] = []
            try:
                daemons = self._plan(state)
                for daemon in daemons:
                    if not self._runs(daemon, state):
                        started.append(daemon)
                        self._start(daemon, state)
                self._wait(daemons, started, state)
            except BaseException:
                with processes.shielded():
                    self._end(started, state)
                    self._remove_temp(started)
                raise
            return tuple(dict.fromkeys(daemon.name for daemon in started))

    def down(self, only: Collection[DaemonName] | None = None) -> None:
        """Ends the stack, politely first. Afterwards no process of it is left; the data stay.

        Args:
            only: names of the daemons to end; all of them when left out.
        """
        if not self.layout.home.exists():
            return
        with self._locked(), processes.shielded():
            self.layout.prepare()
            state = _load(self.layout)
            ended = [daemon for daemon in self._daemons(state) if only is None or daemon.name in only]
            self._end(ended, state)
            self._remove_temp(ended)

    def _remove_temp(self, ended: Collection[Daemon]) -> None:
        """Removes Ray's folder outside the home, unless a head that still runs uses it."""
        if DaemonName.RAY in (daemon.name for daemon in ended):
            shutil.rmtree(self.layout.ray_temp, ignore_errors=True)
        # Empty, it was made by a start that failed before any head.
        with suppress(OSError):
            self.layout.ray_temp.rmdir()

    def status(self) -> tuple[DaemonStatus, ...]:
        """The status of each daemon, asked of itself; empty when this home has never had a stack."""
        state = _load(self.layout)
        if not state.ports:
            return ()
        return tuple(self._status(daemon, state) for daemon in self._daemons(state))

    # --- what is written down

    def _save(self, state: _State) -> None:
        write_atomically(self.layout.state, state.model_dump_json(indent=2))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps other processes that start or end this stack out."""
        # The one thing done before the lock is held; two that make the same token at once would spoil each other's.
        self.layout.home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.layout.lock)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            self._say("another `seqae` starts or stops this stack; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    # --- daemons

    def _daemons(self, state: _State) -> tuple[Daemon, ...]:
        return self._build(self.layout, {**dict.fromkeys(PREFERRED_PORTS, 0), **state.ports}, self._data_dir)

    def _plan(self, state: _State) -> tuple[Daemon, ...]:
        """Settles the ports: configured, else as before, else free ones."""
        for daemon in self._daemons(state):
            moved = {name: port for name, port in self._wanted.items() if state.ports.get(name, port) != port}
            if PortName(daemon.name) in moved and self._runs(daemon, state):
                raise StackError(f"{daemon.title} runs at {daemon.url}; to move it, `seqae down` first")
        ports = {**state.ports, **self._wanted}
        for name, preferred in PREFERRED_PORTS.items():
            if name not in ports:
                ports[name] = free_port(preferred, set(ports.values()))
        state.ports = ports
        self._save(state)
        return self._daemons(state)

    def _runs(self, daemon: Daemon, state: _State) -> bool:
        leader = state.leaders.get(daemon.name)
        return leader is not None and processes.alive(leader, self.layout.mark(daemon.name))

    def _start(self, daemon: Daemon, state: _State) -> None:
        # What a killed leader left behind holds its ports and its files.
        processes.end(self.layout.mark(daemon.name), state.leaders.pop(daemon.name, None), daemon.grace)
        for port in daemon.ports:
            if not is_free(port):
                raise StackError(
                    f"port {port} of {daemon.title} is taken by another program; free it, or choose another"
                )
        self._say(f"{daemon.title}: starting")
        if daemon.before is not None:
            daemon.before()
        state.leaders[daemon.name] = processes.start(
            daemon.command,
            {**os.environ, **daemon.environment},
            self.layout.mark(daemon.name),
            self.layout.logs / f"{daemon.name}.log",
            # A folder without anything that Python could import in place of a package.
            cwd=self.layout.logs,
        )
        self._save(state)

    def _wait(self, daemons: tuple[Daemon, ...], started: list[Daemon], state: _State) -> None:
        waiting, last_progress_at = list(daemons), time.time()
        starts = {daemon.name: 1 for daemon in daemons}
        while waiting:
            for daemon in list(waiting):
                if not self._runs(daemon, state):
                    if starts[daemon.name] == daemon.tries:
                        raise StackError(f"{daemon.title} ended by itself; {self._tail(daemon)}")
                    self._say(f"{daemon.title}: ended by itself, once more")
                    starts[daemon.name] += 1
                    started.append(daemon)
                    self._start(daemon, state)
                    last_progress_at = time.time()
                problem = _health_problem(daemon)
                seconds = time.time() - state.leaders[daemon.name].started
                if problem is None:
                    waiting.remove(daemon)
                    last_progress_at = time.time()
                    how = f"ready after {seconds:.0f} s" if daemon in started else "runs already"
                    self._say(f"{daemon.title}: {how}, {daemon.url}")
                elif time.time() - last_progress_at > daemon.ready_timeout:
                    # Counted from the last daemon that got ready: the control plane can't be before the others.
                    raise StackError(
                        f"{daemon.title} is not ready after {seconds:.0f} s: {problem}; {self._tail(daemon)}"
                    )
            time.sleep(_POLL_SECONDS if waiting else 0)

    def _tail(self, daemon: Daemon) -> str:
        log = self.layout.logs / f"{daemon.name}.log"
        lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL:] if log.exists() else []
        return "\n  ".join([f"the end of {log}:", *lines])

    def _end(self, daemons: list[Daemon], state: _State) -> None:
        for daemon in reversed(daemons):
            mark, leader = self.layout.mark(daemon.name), state.leaders.get(daemon.name)
            if processes.members(mark, leader):
                self._say(f"{daemon.title}: stopping")
                processes.end(mark, leader, daemon.grace)
            state.leaders.pop(daemon.name, None)
            self._save(state)

    def _status(self, daemon: Daemon, state: _State) -> DaemonStatus:
        if not self._runs(daemon, state):
            return DaemonStatus(daemon.name, daemon.title, None, daemon.url, "not running")
        problem = _health_problem(daemon)
        health = "ready" if problem is None else f"not ready: {problem}"
        return DaemonStatus(daemon.name, daemon.title, state.leaders[daemon.name].pid, daemon.url, health)


def _load(layout: HomeLayout) -> _State:
    try:
        return _State.model_validate_json(layout.state.read_bytes())
    except FileNotFoundError:
        return _State()
    except ValidationError as error:
        raise StackError(f"{layout.state} is damaged; delete it, and run the same command again") from error


def api_url(home: Path) -> str:
    """URL of the control plane of a home folder's stack.

    Raises:
        StackError: there is none, or its record is damaged.
    """
    ports = _load(HomeLayout(home.expanduser().absolute())).ports
    if PortName.API not in ports:
        raise StackError(f"there is no stack in {home}; `seqae up` starts one, or name a service with --url")
    return f"http://{HOST}:{ports[PortName.API]}"


def _health_problem(daemon: Daemon) -> str | None:
    """Health check: None when a daemon is ready, else what is wrong."""
    try:
        # A proxy from the environment has no way to this machine's loopback.
        answer = httpx.get(daemon.ready_url, headers=dict(daemon.headers), timeout=_ANSWER_SECONDS, trust_env=False)
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return None if answer.status_code == httpx.codes.OK else f"it answers {answer.status_code}"
