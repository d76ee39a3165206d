"""The embedded stack: MLflow, Ray and the control plane as daemons of this machine, which outlive the command line.

`up` may be repeated: it keeps what runs and brings back what does not, on the port that it had. `down` leaves nothing.
What was started is written to `<home>/stack.json`; each part's output is in `<home>/logs`.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import BaseModel, ValidationError

from jobs.directory.files import write_atomically
from service.errors import StackError
from service.local import processes
from service.local.daemons import HOST, PREFERRED_PORTS, Daemon, HomeLayout, build_daemons, free_port, is_free

__all__ = ["DaemonStatus", "Stack", "api_url"]

Build = Callable[[HomeLayout, Mapping[str, int], Path | None], tuple[Daemon, ...]]

_POLL_SECONDS = 0.2
_LOG_TAIL = 15
_ANSWER_SECONDS = 10.0  # the control plane asks the others before it answers


class _State(BaseModel):
    """stack.json."""

    ports: dict[str, int] = {}
    leaders: dict[str, processes.SessionLeader] = {}


@dataclass(frozen=True)
class DaemonStatus:
    """How a part is, for people."""

    name: str
    title: str
    pid: int | None
    url: str
    health: str
    """"ready", "not ready: ..." or "not running"."""

    @property
    def ready(self) -> bool:
        return self.health == "ready"


class Stack:
    """The stack of one home folder.

    Args:
        home: folder of everything it keeps.
        data_dir: the user's own data, for jobs that name paths in it.
        ports: for names in `PREFERRED_PORTS`; the others keep the port they had, or get a free one.
        say: told about progress, a line at a time.
        build: makes the parts from their ports; for tests.
    """

    def __init__(
        self,
        home: Path,
        data_dir: Path | None = None,
        ports: Mapping[str, int] | None = None,
        say: Callable[[str], None] = print,
        build: Build = build_daemons,
    ) -> None:
        self.layout = HomeLayout(home.expanduser().absolute())
        self._data_dir = None if data_dir is None else data_dir.expanduser().absolute()
        self._wanted = dict(ports or {})
        self._say = say
        self._build = build

    def up(self) -> tuple[str, ...]:
        """Starts what does not run, and waits until all of it is ready. Cut short, it ends what it started.

        Returns:
            Names of the parts that it started.

        Raises: StackError when a part can't be started; its text ends with what the part printed last.
        """
        with self._locked():
            self.layout.prepare()
            state = _load(self.layout)
            started: list[Daemon] = []
            try:
                parts = self._plan(state)
                for part in parts:
                    if not self._runs(part, state):
                        started.append(part)
                        self._start(part, state)
                self._wait(parts, started, state)
            except BaseException:
                with processes.shielded():
                    self._end(started, state)
                    self._remove_temp(started)
                raise
            return tuple(dict.fromkeys(part.name for part in started))

    def down(self, only: Collection[str] | None = None) -> None:
        """Ends the stack, politely first. Afterwards no process of it is left; the data stay.

        Args:
            only: names of the parts to end; all of them when left out.
        """
        if not self.layout.home.exists():
            return
        with self._locked(), processes.shielded():
            self.layout.prepare()
            state = _load(self.layout)
            ended = [part for part in self._parts(state) if only is None or part.name in only]
            self._end(ended, state)
            self._remove_temp(ended)

    def _remove_temp(self, ended: Collection[Daemon]) -> None:
        """Removes Ray's folder outside the home, unless a head that still runs uses it."""
        if "ray" in (part.name for part in ended):
            shutil.rmtree(self.layout.ray_temp, ignore_errors=True)
        # Empty, it was made by a start that failed before any head.
        with suppress(OSError):
            self.layout.ray_temp.rmdir()

    def status(self) -> tuple[DaemonStatus, ...]:
        """How each part is, asked of the part itself; empty when this home has never had a stack."""
        state = _load(self.layout)
        if not state.ports:
            return ()
        return tuple(self._status(part, state) for part in self._parts(state))

    # --- what is written down

    def _save(self, state: _State) -> None:
        write_atomically(self.layout.state, state.model_dump_json(indent=2))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The one thing done before the lock is held; two that make the same token at once would spoil each other's.
        self.layout.home.mkdir(parents=True, exist_ok=True)
        with self.layout.lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say("another `seqae` starts or stops this stack; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # --- parts

    def _parts(self, state: _State) -> tuple[Daemon, ...]:
        return self._build(self.layout, {**dict.fromkeys(PREFERRED_PORTS, 0), **state.ports}, self._data_dir)

    def _plan(self, state: _State) -> tuple[Daemon, ...]:
        """Settles the ports: configured, else as before, else free ones."""
        for part in self._parts(state):
            moved = {name: port for name, port in self._wanted.items() if state.ports.get(name, port) != port}
            if any(name == part.name for name in moved) and self._runs(part, state):
                raise StackError(f"{part.title} runs at {part.url}; to move it, `seqae down` first")
        ports = {**state.ports, **self._wanted}
        for name, preferred in PREFERRED_PORTS.items():
            if name not in ports:
                ports[name] = free_port(preferred, set(ports.values()))
        state.ports = ports
        self._save(state)
        return self._parts(state)

    def _runs(self, part: Daemon, state: _State) -> bool:
        leader = state.leaders.get(part.name)
        return leader is not None and processes.alive(leader, self.layout.mark(part.name))

    def _start(self, part: Daemon, state: _State) -> None:
        # What a killed leader left behind holds its ports and its files.
        processes.end(self.layout.mark(part.name), state.leaders.pop(part.name, None), part.grace)
        for port in part.ports:
            if not is_free(port):
                raise StackError(f"port {port} of {part.title} is taken by another program; free it, or choose another")
        self._say(f"{part.title}: starting")
        if part.before is not None:
            part.before()
        state.leaders[part.name] = processes.start(
            part.command,
            {**os.environ, **part.environment},
            self.layout.mark(part.name),
            self.layout.logs / f"{part.name}.log",
            # A folder without anything that Python could import in place of a package.
            cwd=self.layout.logs,
        )
        self._save(state)

    def _wait(self, parts: tuple[Daemon, ...], started: list[Daemon], state: _State) -> None:
        waiting, moved_at = list(parts), time.time()
        starts = {part.name: 1 for part in parts}
        while waiting:
            for part in list(waiting):
                if not self._runs(part, state):
                    if starts[part.name] == part.tries:
                        raise StackError(f"{part.title} ended by itself; {self._tail(part)}")
                    self._say(f"{part.title}: ended by itself, once more")
                    starts[part.name] += 1
                    started.append(part)
                    self._start(part, state)
                    moved_at = time.time()
                problem = _ask(part)
                seconds = time.time() - state.leaders[part.name].started
                if problem is None:
                    waiting.remove(part)
                    moved_at = time.time()
                    how = f"ready after {seconds:.0f} s" if part in started else "runs already"
                    self._say(f"{part.title}: {how}, {part.url}")
                elif time.time() - moved_at > part.patience:
                    # Counted from the last part that got ready: the control plane can't be before the others.
                    raise StackError(f"{part.title} is not ready after {seconds:.0f} s: {problem}; {self._tail(part)}")
            time.sleep(_POLL_SECONDS if waiting else 0)

    def _tail(self, part: Daemon) -> str:
        log = self.layout.logs / f"{part.name}.log"
        lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL:] if log.exists() else []
        return "\n  ".join([f"the end of {log}:", *lines])

    def _end(self, parts: list[Daemon], state: _State) -> None:
        for part in reversed(parts):
            mark, leader = self.layout.mark(part.name), state.leaders.get(part.name)
            if processes.members(mark, leader):
                self._say(f"{part.title}: stopping")
                processes.end(mark, leader, part.grace)
            state.leaders.pop(part.name, None)
            self._save(state)

    def _status(self, part: Daemon, state: _State) -> DaemonStatus:
        if not self._runs(part, state):
            return DaemonStatus(part.name, part.title, None, part.url, "not running")
        problem = _ask(part)
        health = "ready" if problem is None else f"not ready: {problem}"
        return DaemonStatus(part.name, part.title, state.leaders[part.name].pid, part.url, health)


def _load(layout: HomeLayout) -> _State:
    try:
        return _State.model_validate_json(layout.state.read_bytes())
    except FileNotFoundError:
        return _State()
    except ValidationError as error:
        raise StackError(f"{layout.state} is damaged; delete it, and run the same command again") from error


def api_url(home: Path) -> str:
    """Where the control plane of a home folder's stack listens. Raises: StackError."""
    ports = _load(HomeLayout(home.expanduser().absolute())).ports
    if "api" not in ports:
        raise StackError(f"there is no stack in {home}; `seqae up` starts one, or name a service with --url")
    return f"http://{HOST}:{ports['api']}"


def _ask(part: Daemon) -> str | None:
    """None when a part is ready, else what is wrong."""
    try:
        # A proxy from the environment has no way to this machine's loopback.
        answer = httpx.get(part.ready_url, headers=dict(part.headers), timeout=_ANSWER_SECONDS, trust_env=False)
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return None if answer.status_code == httpx.codes.OK else f"it answers {answer.status_code}"
