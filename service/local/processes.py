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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["MARK", "SessionLeader", "alive", "end", "members", "shielded", "start"]

MARK = "SEQAE_STACK_PART"
"""Name of the environment variable that carries the mark."""

_CLOCK_SLACK = 2.0  # seconds by which a start time may seem to move when the machine's clock is set


@dataclass(frozen=True)
class SessionLeader:
    """The first process of a daemon, and the leader of its session."""

    pid: int
    started: float
    """Seconds since 1970. Tells it from a later process with the same id."""


def start(command: Sequence[str], environment: Mapping[str, str], mark: str, log: Path, cwd: Path) -> SessionLeader:
    """Starts a daemon that outlives this process and its terminal; what it prints is appended to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**environment, MARK: mark},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = psutil.Process(process.pid).create_time()
    # It outlives this object, and often this process: Popen would warn that nobody has waited for it.
    process.returncode = 0
    return SessionLeader(process.pid, started)


def _environment(process: psutil.Process) -> Mapping[str, str] | None:
    """A process's environment; None where the system does not tell, or a title was written over it."""
    try:
        environment = process.environ()
    except (psutil.Error, OSError):
        return None
    # No process of ours is without PATH.
    return environment if "PATH" in environment else None


def alive(leader: SessionLeader, mark: str) -> bool:
    """Whether the leader itself lives: this very process, not another one that was given its id."""
    try:
        process = psutil.Process(leader.pid)
        same = abs(process.create_time() - leader.started) < _CLOCK_SLACK
        if not same or process.status() == psutil.STATUS_ZOMBIE:
            return False
    except psutil.Error:
        return False
    return (_environment(process) or {}).get(MARK) == mark


def _belongs(process: psutil.Process, mark: str, leader: SessionLeader | None) -> bool:
    environment = _environment(process)
    if environment is not None:
        return environment.get(MARK) == mark
    if leader is None:
        return False
    try:
        return os.getsid(process.pid) == leader.pid and process.create_time() > leader.started - _CLOCK_SLACK
    except (psutil.Error, OSError):
        return False


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
