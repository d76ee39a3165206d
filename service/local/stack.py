"""The embedded stack: MLflow, Ray and the control plane as daemons of this machine, which outlive the command line.

`up` may be repeated: it keeps what runs and brings back what does not, on the port that it had. `down` leaves nothing.
What was started is written to `<home>/stack.json`; each daemon's output is in `<home>/logs`.
"""

import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from service.errors import StackError
from service.local import processes
from service.local.daemons import Daemon, build_daemons, http_url
from service.local.home import DaemonName, HomeLayout
from service.local.host import Presence, boot_id, this_host
from service.local.join_ticket import make_ticket, write_ticket
from service.local.node_addresses import check_node_ip, join_address
from service.local.ports import HOST, PREFERRED_PORTS, PortName, check_usable, check_wanted, free_port
from service.local.record import FolderId, StackRecord, load_record, recognized, save_record

__all__ = ["DaemonStatus", "Stack", "api_url"]

Build = Callable[[HomeLayout, Mapping[PortName, int], Path | None, str | None], tuple[Daemon, ...]]

_POLL_SECONDS = 0.2
_LOG_TAIL = 15


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

    The home may be called by any of its names: what counts is the folder that they lead to.

    Args:
        home: folder of everything it keeps.
        data_dir: the user's own data, for jobs that name paths in it; the same as before when left out.
        ports: the configured ones; the others keep the port they had, or get a free one.
        say: told about progress, a line at a time.
        build: makes the daemons from their ports; for tests.
        node_ip: address of this machine at which Ray's head listens for other machines; HOST: for none; the same as
            before when left out.

    Raises:
        StackError: the home can't be that of a stack.
    """

    def __init__(
        self,
        home: Path,
        data_dir: Path | None = None,
        ports: Mapping[PortName, int] | None = None,
        say: Callable[[str], None] = print,
        build: Build = build_daemons,
        node_ip: str | None = None,
    ) -> None:
        self.layout = HomeLayout.at(home)
        self._data_dir = None if data_dir is None else data_dir.expanduser().absolute()
        self._wanted = dict(ports or {})
        self._say = say
        self._build = build
        self._node_ip = node_ip

    def up(self, *, takeover: bool = False) -> tuple[DaemonName, ...]:
        """Starts what does not run, and waits until all of it is ready. Cut short, it ends what it started.

        Args:
            takeover: start although the stack is recorded to run on another host. Only for a host that is gone for
                good: two stacks on the same files destroy them.

        Returns:
            Names of the daemons that it started.

        Raises:
            StackError: what was asked for can't be had, and then nothing was changed; or a daemon can't be started,
                and then the text ends with what the daemon printed last.
        """
        check_wanted(self._wanted)
        if not self.layout.home.exists():
            # Nothing of this stack can have them.
            for name, port in self._wanted.items():
                check_usable(name, port)
        with self._locked():
            record = self._load(takeover)
            before = record.model_copy(deep=True)
            started: list[Daemon] = []
            try:
                daemons = self._plan(record)
                for daemon in daemons:
                    if not self._runs(daemon, record):
                        started.append(daemon)
                        self._start(daemon, record)
                self._wait(daemons, started, record)
                self._admit_machines(record)
            except BaseException:
                with processes.shielded():
                    self._end(started, record)
                    self._forget(record, before)
                    self._remove_temp(started, record)
                raise
            return tuple(dict.fromkeys(daemon.name for daemon in started))

    def down(self, only: Collection[DaemonName] | None = None) -> None:
        """Ends the stack, politely first. Afterwards no process of it is left; the data stay.

        Args:
            only: names of the daemons to end; all of them when left out.

        Raises:
            StackError: it runs on another host, or its record is damaged.
        """
        if not self.layout.home.exists():
            return
        with self._locked(), processes.shielded():
            record = self._load()
            ended = [daemon for daemon in self._daemons(record) if only is None or daemon.name in only]
            self._end(ended, record)
            self._remove_temp(ended, record)
            if DaemonName.RAY in (daemon.name for daemon in ended):
                self.layout.join_token.unlink(missing_ok=True)

    def status(self) -> tuple[DaemonStatus, ...]:
        """The status of each daemon, asked of itself; empty when this home has never had a stack."""
        record = load_record(self.layout)
        if not record.ports:
            return ()
        if record.presence is Presence.ELSEWHERE:
            where = f"not running here, but maybe on {record.place}"
            return tuple(
                DaemonStatus(daemon.name, daemon.title, None, daemon.url, where) for daemon in self._daemons(record)
            )
        self.layout = recognized(self.layout, record)
        return tuple(self._status(daemon, record) for daemon in self._daemons(record))

    # --- what is written down

    def _load(self, takeover: bool = False) -> StackRecord:
        """The record, and the layout by which its stack was started. The lock is held.

        Raises:
            StackError: the stack runs where it can't be seen from here.
        """
        record = load_record(self.layout)
        if record.presence is Presence.ELSEWHERE:
            if not takeover:
                raise StackError(
                    f"the stack of {self.layout.home} was started on {record.place}, and can't be seen from here; "
                    "end it there with `seqae down`, or, if that host is gone for good, `seqae up --takeover`"
                )
            record.leaders = {}
        self.layout = recognized(self.layout, record)
        return record

    def _save(self, record: StackRecord) -> None:
        save_record(self.layout, record)

    def _forget(self, record: StackRecord, before: StackRecord) -> None:
        """Takes back what a start that failed has written down: the next one is not to stumble over it."""
        record.ports, record.data_dir, record.node_ip = before.ports, before.data_dir, before.node_ip
        if self.layout.state.exists():
            self._save(record)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps other processes that start or end this stack out."""
        # The one thing done before the lock is held; two that make the same token at once would spoil each other's.
        self.layout.make_home()
        lock = FileLock(self.layout.lock, mode=0o600)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            self._say("another `seqae` starts or stops this stack; waiting for it")
            lock.acquire()
        except OSError as error:
            raise StackError(f"{self.layout.home} can't be used: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    def _remove_temp(self, ended: Collection[Daemon], record: StackRecord) -> None:
        """Removes Ray's folder outside the home, unless a head that still runs uses it."""
        temp = self.layout.ray_temp
        if DaemonName.RAY in (daemon.name for daemon in ended):
            shutil.rmtree(temp, ignore_errors=True)
            if record.ray_temp is not None:
                record.ray_temp = None
                self._save(record)
        # Empty, it was made by a start that failed before any head; the parent may be in use by other stacks.
        for folder in (temp, temp.parent):
            with suppress(OSError):
                folder.rmdir()

    # --- daemons

    def _daemons(self, record: StackRecord) -> tuple[Daemon, ...]:
        ports = {**dict.fromkeys(PREFERRED_PORTS, 0), **record.ports}
        return self._build(self.layout, ports, record.data_dir, record.node_ip)

    def _admit_machines(self, record: StackRecord) -> None:
        """Writes the join token file where other machines may join, and removes it where they may not."""
        if record.node_ip is None:
            self.layout.join_token.unlink(missing_ok=True)
            return
        address = join_address(record.node_ip, record.ports[PortName.RAY_GCS])
        write_ticket(self.layout.join_token, make_ticket(self.layout, address, record.data_dir))
        self._say(f"other machines join with `seqae join {address} --token-file {self.layout.join_token}`")

    def _plan(self, record: StackRecord) -> tuple[Daemon, ...]:
        """Settles ports and folders, and writes them down, unless one of them can't be had.

        Ports are the configured ones, else as before, else free ones.
        """
        self._refuse_moves(record)
        # What a killed leader left behind holds its ports and its files.
        idle = [daemon.name for daemon in self._daemons(record) if not self._runs(daemon, record)]
        for daemon in self._daemons(record):
            if daemon.name in idle:
                processes.end(self.layout.mark(daemon.name), record.leaders.pop(daemon.name, None), daemon.grace)
        ports = {**record.ports, **self._wanted}
        check_wanted(ports)
        for name, preferred in PREFERRED_PORTS.items():
            if name not in ports:
                ports[name] = free_port(preferred, set(ports.values()))
        record.ports = ports
        if DaemonName.API in idle:
            record.data_dir = self._data_dir or record.data_dir
        if DaemonName.RAY in idle:
            wanted = self._node_ip or record.node_ip or HOST
            record.node_ip = None if wanted == HOST else check_node_ip(wanted)
        for daemon in self._daemons(record):
            if daemon.name in idle:
                for port in daemon.ports:
                    check_usable(daemon.title, port)
        self.layout.prepare()
        if DaemonName.RAY in idle:
            usual = replace(self.layout, recorded_ray_temp=None)
            if record.ray_temp not in (None, usual.ray_temp):
                shutil.rmtree(record.ray_temp, ignore_errors=True)
            self.layout = usual.with_ray_temp()
            record.ray_temp = self.layout.ray_temp
        record.key = self.layout.key
        record.folder, record.host = FolderId.of(self.layout.home), this_host()
        self._save(record)
        return self._daemons(record)

    def _refuse_moves(self, record: StackRecord) -> None:
        """Refuses another port, or another data folder, for a daemon that runs."""
        for daemon in self._daemons(record):
            if not self._runs(daemon, record):
                continue
            name = PortName(daemon.name)
            if self._wanted.get(name, record.ports.get(name)) != record.ports.get(name):
                raise StackError(f"{daemon.title} runs at {daemon.url}; to move it, `seqae down` first")
            if daemon.name is not DaemonName.MLFLOW and self._node_ip not in (None, record.node_ip or HOST):
                has = f"listens for machines at {record.node_ip}" if record.node_ip else "takes no other machines"
                raise StackError(f"{daemon.title} runs, and its cluster {has}; to change that, `seqae down` first")
            if daemon.name is DaemonName.API and self._data_dir is not None:
                told = processes.environment_of(record.leaders[daemon.name]).get("SEQAE_DATA_DIR")
                if told is None or Path(told).resolve() != self._data_dir.resolve():
                    has = "no data folder" if told is None else f"the data folder {told}"
                    raise StackError(f"{daemon.title} runs with {has}; to give it {self._data_dir}, `seqae down` first")

    def _runs(self, daemon: Daemon, record: StackRecord) -> bool:
        leader = record.leaders.get(daemon.name)
        return leader is not None and processes.alive(leader, self.layout.mark(daemon.name))

    def _start(self, daemon: Daemon, record: StackRecord) -> None:
        # Again: a daemon that gave up may have left a part of itself behind.
        processes.end(self.layout.mark(daemon.name), record.leaders.pop(daemon.name, None), daemon.grace)
        for port in daemon.ports:
            check_usable(daemon.title, port)
        self._say(f"{daemon.title}: starting")
        if daemon.before is not None:
            daemon.before()
        record.leaders[daemon.name] = processes.start(
            daemon.command,
            {**os.environ, **daemon.environment},
            self.layout.mark(daemon.name),
            self.layout.logs / f"{daemon.name}.log",
            cwd=daemon.cwd,
        )
        self._save(record)

    def _wait(self, daemons: tuple[Daemon, ...], started: list[Daemon], record: StackRecord) -> None:
        waiting, last_progress_at = list(daemons), time.monotonic()
        starts = {daemon.name: 1 for daemon in daemons}
        while waiting:
            for daemon in list(waiting):
                if not self._runs(daemon, record):
                    if starts[daemon.name] == daemon.tries:
                        raise StackError(f"{daemon.title} ended by itself; {self._tail(daemon)}")
                    self._say(f"{daemon.title}: ended by itself, once more")
                    starts[daemon.name] += 1
                    started.append(daemon)
                    self._start(daemon, record)
                    last_progress_at = time.monotonic()
                problem = daemon.health_problem()
                seconds = processes.age(record.leaders[daemon.name])
                if problem is None:
                    waiting.remove(daemon)
                    last_progress_at = time.monotonic()
                    how = f"ready after {seconds:.0f} s" if daemon in started else "runs already"
                    self._say(f"{daemon.title}: {how}, {daemon.url}")
                elif time.monotonic() - last_progress_at > daemon.ready_timeout:
                    # Counted from the last daemon that got ready: the control plane can't be before the others.
                    raise StackError(
                        f"{daemon.title} is not ready after {seconds:.0f} s: {problem}; {self._tail(daemon)}"
                    )
            time.sleep(_POLL_SECONDS if waiting else 0)

    def _tail(self, daemon: Daemon) -> str:
        log = self.layout.logs / f"{daemon.name}.log"
        lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL:] if log.exists() else []
        return "\n  ".join([f"the end of {log}:", *lines])

    def _end(self, daemons: list[Daemon], record: StackRecord) -> None:
        for daemon in reversed(daemons):
            mark, leader = self.layout.mark(daemon.name), record.leaders.get(daemon.name)
            if processes.members(mark, leader):
                self._say(f"{daemon.title}: stopping")
                processes.end(mark, leader, daemon.grace)
            record.leaders.pop(daemon.name, None)
            self._save(record)

    def _status(self, daemon: Daemon, record: StackRecord) -> DaemonStatus:
        if not self._runs(daemon, record):
            return DaemonStatus(daemon.name, daemon.title, None, daemon.url, "not running")
        problem = daemon.health_problem()
        health = "ready" if problem is None else f"not ready: {problem}"
        return DaemonStatus(daemon.name, daemon.title, record.leaders[daemon.name].pid, daemon.url, health)


def api_url(home: Path) -> str:
    """URL of the control plane of a home folder's stack.

    Raises:
        StackError: there is none, it is on another host, or its record is damaged.
    """
    record = load_record(HomeLayout.at(home))
    if PortName.API not in record.ports:
        raise StackError(f"there is no stack in {home}; `seqae up` starts one, or name a service with --url")
    if record.presence is Presence.ELSEWHERE and record.host is not None and record.host.boot_id != boot_id():
        raise StackError(f"the stack of {home} was started on {record.place}; name the service with --url")
    return http_url(record.ports[PortName.API])
