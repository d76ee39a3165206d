"""Node that joins another machine's Ray cluster: `ray start` as a child process, from start to drained end."""

import os
import platform
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.cluster.drains import Drain, end_drain, write_drain
from service.errors import StackError
from service.local import processes
from service.local.daemons import NODE_OPTIONS, executable, ray_environment
from service.local.home import make_private_folder, usual_ray_temp
from service.local.join_ticket import check_folders, check_versions
from service.local.node_addresses import check_node_ip, outward_ip, split_address
from service.schemas.cluster import JoinInformation

__all__ = ["JoinedNode", "NodeSize"]

_CONNECT_SECONDS = 5.0
_START_SECONDS = 90.0
_POLL_SECONDS = 0.2
_END_SECONDS = 10.0  # for the end itself, after what runs here has left
_LOG_TAIL = 15
_STARTED = "Ray runtime started"
"""What `ray start` prints once its machine belongs to the cluster."""


@dataclass(frozen=True)
class NodeSize:
    """What a machine gives to the cluster."""

    cpus: float | None = None
    """None: all that Ray finds."""
    gpus: float | None = None
    """None: all that Ray finds."""


class JoinedNode:
    """This machine as a part of another one's cluster.

    Args:
        information: what the head says of itself.
        token: Ray's.
        size: what this machine gives.
        node_ip: address of this machine by which the others reach it; found when left out.
        name: of this machine, as `seqae nodes` shows it; its host name when left out.
        drain_seconds: how long the work on it may go on after it was asked to leave.
        say: told about progress, a line at a time.
        command: starts it; for tests.
    """

    def __init__(
        self,
        information: JoinInformation,
        token: str,
        size: NodeSize | None = None,
        *,
        node_ip: str | None = None,
        name: str | None = None,
        drain_seconds: float = 30.0,
        say: Callable[[str], None] = print,
        command: Sequence[str] | None = None,
    ) -> None:
        self._information = information
        self._token = token
        self._size = size or NodeSize()
        self._node_ip = node_ip
        self._name = name or platform.node()
        self._drain_seconds = drain_seconds
        self._say = say
        self._command = command
        self._key = f"join-{secrets.token_hex(4)}"
        self._temp = usual_ray_temp(self._key)
        self._leader: processes.SessionLeader | None = None
        self._address = ""

    @property
    def mark(self) -> str:
        """Value of the environment variable that its processes carry, see `processes.MARK`."""
        return f"{self._key}:ray"

    def run(self) -> None:
        """Joins, and belongs to the cluster until Ray ends or this process is asked to (SIGTERM, Ctrl-C).

        Then the machine is drained: it gets no new work, and what runs on it has `drain_seconds` to leave. Nothing of
        it is left afterwards.

        Raises:
            StackError: it can't join, and then nothing was started; or Ray has ended by itself.
        """
        check_versions(self._information.versions)
        check_folders(self._information)
        self._address = own = self._check_addresses()
        try:
            self._temp = make_private_folder(self._temp)
            self._leader = self._start(own)
            self._wait_for_start()
            address = self._information.head_address
            self._say(f"this machine ({self._name}, {own}) belongs to the cluster of {address}; Ctrl-C drains it")
            while processes.alive(self._leader, self.mark):
                time.sleep(_POLL_SECONDS)
            raise StackError(f"Ray ended by itself: the head is gone, or has drained this machine; {self._tail()}")
        finally:
            with processes.shielded():
                self._leave()

    def _check_addresses(self) -> str:
        """This machine's address, once it is sure that the head can be reached, and can reach this machine."""
        host, port = split_address(self._information.head_address)
        try:
            with socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as connection:
                peer = str(connection.getpeername()[0])
        except OSError as error:
            raise StackError(
                f"the head does not answer at {host}:{port} ({error.strerror or error}); does it run, and do firewalls "
                "let this machine through?"
            ) from error
        if peer.startswith("127.") or peer == "::1":
            raise StackError(
                f"the head listens at {host}, a loopback address, which no other machine can reach; start it with "
                "`seqae up --head --node-ip ADDRESS`"
            )
        return outward_ip(peer) if self._node_ip is None else check_node_ip(self._node_ip)

    def _start(self, own: str) -> processes.SessionLeader:
        token = self._temp / "ray.token"
        handle = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(self._token)
        environment = {
            **os.environ,
            **ray_environment(token, self._temp, shared=True),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(self._drain_seconds),
        }
        command = self._ray_command(own) if self._command is None else self._command
        return processes.start(command, environment, self.mark, self._log, cwd=self._temp)

    def _ray_command(self, own: str) -> tuple[str, ...]:
        sizes = {"--num-cpus": self._size.cpus, "--num-gpus": self._size.gpus}
        return (
            *(executable("ray"), "start", "--block", "--address", self._information.head_address),
            *("--node-ip-address", own, "--node-name", self._name, "--temp-dir", str(self._temp)),
            *NODE_OPTIONS,
            *(word for option, size in sizes.items() if size is not None for word in (option, f"{size:g}")),
        )

    def _wait_for_start(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while _STARTED not in self._printed():
            if self._leader is None or not processes.alive(self._leader, self.mark):
                raise StackError(f"Ray did not start: {self._tail()}")
            if time.monotonic() > deadline:
                raise StackError(f"Ray has not started after {_START_SECONDS:.0f} s; {self._tail()}")
            time.sleep(_POLL_SECONDS)

    def _leave(self) -> None:
        """Ends what was started, politely first, and removes its folder."""
        if self._leader is not None:
            if processes.alive(self._leader, self.mark):
                self._say(f"leaving the cluster; what runs here has {self._drain_seconds:g} s")
                if self._information.bucket is None:
                    self._tell_drain()
            processes.end(self.mark, self._leader, grace=self._drain_seconds + _END_SECONDS)
            with suppress(OSError):  # it runs out by itself
                end_drain(Path(self._information.storage), self._key)
        shutil.rmtree(self._temp, ignore_errors=True)
        if self._temp.parent.is_dir() and not any(self._temp.parent.iterdir()):
            self._temp.parent.rmdir()

    def _tell_drain(self) -> None:
        """Writes down that this machine leaves, for `seqae nodes`; it leaves all the same where that fails."""
        until = time.time() + self._drain_seconds + _END_SECONDS
        drain = Drain(name=self._name, address=self._address, until=until)
        try:
            write_drain(Path(self._information.storage), self._key, drain)
        except OSError as error:
            self._say(f"`seqae nodes` will not show it: {error.strerror or error}")

    @property
    def _log(self) -> Path:
        return self._temp / "ray.log"

    def _printed(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _tail(self) -> str:
        return "\n  ".join(["the last that Ray printed:", *self._printed().splitlines()[-_LOG_TAIL:]])
