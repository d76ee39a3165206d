"""Starts daemons in sessions of their own, finds their processes again, and ends them.

Every daemon gets a mark in its environment, which its children inherit. Whatever carries it belongs to the daemon,
also after its leader was killed. Some of Ray's processes overwrite their environment with a title, so those of the
recorded session count as well. Nothing is ever looked up by name, and a process id that was given to another process
since is not ours.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil

from service.local.host import boot_id

__all__ = [
    "MARK",
    "SessionLeader",
    "age",
    "alive",
    "end",
    "environment_of",
    "members",
    "open_log",
    "shielded",
    "start",
    "working_directory",
]

MARK = "SEQAE_STACK_PART"
"""Name of the environment variable that carries the mark."""

_CLOCK_SLACK = 2.0  # seconds by which a start time may seem to move when the machine's clock is set
_PRIVATE_UMASK = 0o077


@dataclass(frozen=True)
class SessionLeader:
    """The first process of a daemon, and the leader of its session."""

    pid: int
    started: float = 0.0
    """Seconds since 1970, by the clock as it was then. Records of older releases have nothing else."""
    start_ticks: int | None = None
    """When it started, in clock ticks since the boot: tells it from a later process with the same id, whatever is done
    to the clock. None where the kernel does not say."""
    boot_id: str | None = None
    """The boot since which `start_ticks` counts, see `host.boot_id`."""

    @classmethod
    def of(cls, pid: int) -> "SessionLeader":
        """A process that runs, by its id."""
        return cls(pid, psutil.Process(pid).create_time(), _start_ticks(pid), boot_id())


def start(command: Sequence[str], environment: Mapping[str, str], mark: str, log: Path, cwd: Path) -> SessionLeader:
    """Starts a daemon that outlives this process and its terminal; what it prints is appended to `log`.

    The files that it makes are for its owner alone.
    """
    with open_log(log) as output:
        process = subprocess.Popen(
            command,
            env={**environment, MARK: mark},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=_PRIVATE_UMASK,
        )
    leader = SessionLeader.of(process.pid)
    # It outlives this object, and often this process: Popen would warn that nobody has waited for it.
    process.returncode = 0
    return leader


def open_log(path: Path) -> BinaryIO:
    """Opens a log for appending; a new one is readable by its owner alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def age(leader: SessionLeader) -> float:
    """Seconds since a leader was started."""
    if leader.start_ticks is None:
        return time.time() - leader.started
    return time.clock_gettime(time.CLOCK_BOOTTIME) - leader.start_ticks / os.sysconf("SC_CLK_TCK")


def environment_of(leader: SessionLeader) -> Mapping[str, str]:
    """The variables that a leader was started with; empty when it lives no more, or the system does not tell."""
    process = _find(leader)
    return {} if process is None else _environment(process) or {}


def working_directory(leader: SessionLeader) -> Path:
    """Working directory of a leader that lives.

    Raises:
        OSError: it does not, or the system does not tell.
    """
    try:
        return Path(psutil.Process(leader.pid).cwd())
    except psutil.Error as error:
        raise OSError(f"nothing is known of process {leader.pid}") from error


def alive(leader: SessionLeader, mark: str) -> bool:
    """Whether the leader itself lives: this very process, not another one that was given its id."""
    process = _find(leader)
    if process is None:
        return False
    environment = _environment(process)
    if environment is None:
        # As for a moment after its start. Its id and its ticks name it as well.
        return leader.start_ticks is not None
    return environment.get(MARK) == mark


def _find(leader: SessionLeader) -> psutil.Process | None:
    try:
        process = psutil.Process(leader.pid)
    except psutil.Error:
        return None
    return process if _is_leader(process, leader) else None


def _is_leader(process: psutil.Process, leader: SessionLeader) -> bool:
    """Whether a process with the leader's id is the leader, and has not ended."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if leader.boot_id not in (None, boot_id()):
            return False
        if leader.start_ticks is None:
            return bool(abs(process.create_time() - leader.started) < _CLOCK_SLACK)
    except psutil.Error:
        return False
    return _start_ticks(process.pid) == leader.start_ticks


def _start_ticks(pid: int) -> int | None:
    """Clock ticks from the boot to the start of a process; None where it is gone, or the system has no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name, in brackets, may hold brackets and blanks itself; the start is field 22, counted from 1.
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def _environment(process: psutil.Process) -> Mapping[str, str] | None:
    """A process's environment; None where the system does not tell, or a title was written over it."""
    try:
        environment = process.environ()
    except (psutil.Error, OSError):
        return None
    # No process of ours is without PATH.
    return environment if "PATH" in environment else None


def _belongs(process: psutil.Process, mark: str, leader: SessionLeader | None) -> bool:
    if not _in_this_namespace(process.pid):
        # A container of this machine may have a home folder of the same path.
        return False
    environment = _environment(process)
    if environment is not None:
        return environment.get(MARK) == mark
    return leader is not None and _in_session(process, leader)


def _in_session(process: psutil.Process, leader: SessionLeader) -> bool:
    """Whether a process is in the session that a leader began, which may have ended since."""
    if leader.boot_id not in (None, boot_id()):
        return False
    try:
        if os.getsid(process.pid) != leader.pid:
            return False
        if leader.start_ticks is None:
            return bool(process.create_time() > leader.started - _CLOCK_SLACK)
    except (psutil.Error, OSError):
        return False
    # Another process that was given the leader's id may have begun a session of the same id.
    first = _start_ticks(leader.pid)
    own = _start_ticks(process.pid)
    return first in (None, leader.start_ticks) and own is not None and own >= leader.start_ticks


def _in_this_namespace(pid: int) -> bool:
    """Whether a process has its id from the same pid namespace as this one; true where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink() == Path("/proc/self/ns/pid").readlink()
    except OSError:
        return True


def _self_and_ancestors() -> set[int]:
    """Ids of this process and of those above it: never ended, whatever mark they carry."""
    me = psutil.Process()
    return {me.pid, *(parent.pid for parent in me.parents())}


def members(mark: str, leader: SessionLeader | None) -> list[psutil.Process]:
    """All living processes of a daemon, its leader included."""
    spared = _self_and_ancestors()
    found = []
    for process in psutil.process_iter():
        try:
            skip = process.pid in spared or process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if not skip and _belongs(process, mark, leader):
            found.append(process)
    return found


def end(mark: str, leader: SessionLeader | None, grace: float) -> None:
    """Ends a daemon: asks its leader, then the rest, then forces what is left. Nothing of it lives afterwards.

    Args:
        mark: of the daemon's processes.
        leader: as `start` gave it, if it is known.
        grace: seconds that the leader has for an orderly end.
    """
    if leader is not None and alive(leader, mark):
        _end_politely([psutil.Process(leader.pid)], grace)
    # A rest is normal: MLflow's leader leaves its worker behind, and Ray's the drivers of its jobs.
    _end_politely(members(mark, leader), min(grace, 2.0))
    while rest := members(mark, leader):
        for process in rest:
            _signal(process, force=True)
        psutil.wait_procs(rest, timeout=1.0)


def _end_politely(processes: list[psutil.Process], grace: float) -> None:
    for process in processes:
        _signal(process, force=False)
    psutil.wait_procs(processes, timeout=grace)


def _signal(process: psutil.Process, *, force: bool) -> None:
    # psutil compares the start time first, so a reused id is not hit.
    try:
        if force:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        return


@contextmanager
def shielded() -> Iterator[None]:
    """Ignores SIGINT and SIGTERM within, for a clean-up that is bounded in time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
