"""Identity of the machine and process namespace that a stack runs in, to tell them apart on a shared disk."""

import platform
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

import psutil

__all__ = ["Host", "Presence", "boot_id", "presence", "this_host"]


@dataclass(frozen=True)
class Host:
    """Where processes have ids of their own: a machine since it was booted, and a pid namespace on it."""

    name: str
    machine_id: str
    """Content of /etc/machine-id; empty where the system has none, as in many containers."""
    boot_id: str
    """Changes with each boot; not with the clock."""
    pid_namespace: str
    """Of containers, which number their processes anew; empty where the system has no namespaces."""


class Presence(StrEnum):
    """What can be said from here about processes that were started on some host."""

    HERE = "here"
    """They would be seen."""
    GONE = "gone"
    """The machine has been booted since: they can't live any more."""
    ELSEWHERE = "elsewhere"
    """They can't be seen from here, so they may live."""


def presence(recorded: Host, here: Host) -> Presence:
    """Whether processes of a recorded host could be seen from this one."""
    if recorded.boot_id == here.boot_id:
        return Presence.HERE if recorded.pid_namespace == here.pid_namespace else Presence.ELSEWHERE
    # Virtual machines made from one image may share the machine id, and containers a name: both together prove it.
    same_machine = bool(here.machine_id) and (recorded.machine_id, recorded.name) == (here.machine_id, here.name)
    return Presence.GONE if same_machine else Presence.ELSEWHERE


@cache
def this_host() -> Host:
    """The host of this process."""
    return Host(platform.node(), _read("/etc/machine-id"), boot_id(), _pid_namespace())


@cache
def boot_id() -> str:
    """Names the time since the machine was booted. Where the kernel has no such name, it is the time of the boot."""
    return _read("/proc/sys/kernel/random/boot_id") or f"booted at {psutil.boot_time():.0f}"


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
