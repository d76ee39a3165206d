"""Record of a stack, stack.json: its ports, the processes that lead its daemons, and where they were started."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError, field_validator

from jobs.directory.files import write_atomically
from service.errors import StackError
from service.local.home import DaemonName, HomeLayout
from service.local.host import Host, Presence, presence, this_host
from service.local.ports import PortName, is_port
from service.local.processes import MARK, SessionLeader, environment_of, working_directory

__all__ = ["FolderId", "StackRecord", "load_record", "recognized", "save_record"]


class FolderId(BaseModel, frozen=True):
    """Device and inode of a folder, which are the same by whatever name it is reached."""

    device: int
    inode: int

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The folder's identity. Raises: OSError."""
        found = folder.stat()
        return cls(device=found.st_dev, inode=found.st_ino)


class StackRecord(BaseModel):
    """Content of stack.json. What an older release did not record is None."""

    ports: dict[PortName, int] = {}
    leaders: dict[DaemonName, SessionLeader] = {}
    key: str | None = None
    """`HomeLayout.key` under which the processes were started."""
    folder: FolderId | None = None
    """The home folder itself: another one means that this file was copied with it."""
    host: Host | None = None
    """Where the leaders run."""
    ray_temp: Path | None = None
    """Folder of Ray's sockets, which `down` removes."""
    data_dir: Path | None = None
    """The user's own data, as the control plane was told."""
    node_ip: str | None = None
    """Address at which Ray's head listens for other machines; None: there are none."""

    @field_validator("ports")
    @classmethod
    def _possible(cls, ports: dict[PortName, int]) -> dict[PortName, int]:
        # An older release wrote down what it was told before it was tried.
        return {name: port for name, port in ports.items() if is_port(port)}

    @property
    def place(self) -> str:
        """The host, for people."""
        if self.host is None:
            return "this host"
        namespace = self.host.pid_namespace
        return f"host {self.host.name}" + (f" (pid namespace {namespace})" if namespace else "")

    @property
    def presence(self) -> Presence:
        """Whether the recorded processes could be seen from here."""
        return Presence.HERE if self.host is None or not self.leaders else presence(self.host, this_host())


def load_record(layout: HomeLayout) -> StackRecord:
    """The record of a home folder; an empty one where no stack was ever started.

    Raises:
        StackError: it can't be read.
    """
    try:
        return StackRecord.model_validate_json(layout.state.read_bytes())
    except FileNotFoundError:
        return StackRecord()
    except OSError as error:
        raise StackError(f"{layout.state} can't be read: {error.strerror or error}") from error
    except ValidationError as error:
        raise StackError(f"{layout.state} is damaged; delete it, and run the same command again") from error


def save_record(layout: HomeLayout, record: StackRecord) -> None:
    """Replaces the record in one step; it is readable by its owner alone."""
    write_atomically(layout.state, record.model_dump_json(indent=2))


def recognized(layout: HomeLayout, record: StackRecord) -> HomeLayout:
    """The layout under which a recorded stack was started, and a record without what can't be of this home any more.

    Args:
        layout: by the path that the home was called by.
        record: of processes that can be seen from here; changed where it was copied from another home, or is of
            another boot.
    """
    if record.presence is Presence.GONE:
        record.leaders = {}
    if record.folder is not None and layout.home.exists() and record.folder != (here := FolderId.of(layout.home)):
        if record.folder.inode != here.inode:
            # A copy: the ports are those of the original, which may run.
            record.ports = {}
        record.leaders, record.key, record.ray_temp = {}, None, None
    key = record.key or _key_of_leaders(layout, record)
    found = HomeLayout(layout.home, recorded_key=key)
    if record.ray_temp is None and DaemonName.RAY in record.leaders:
        # Where older releases had it.
        old = Path(tempfile.gettempdir()) / f"seqae-{found.key}"
        record.ray_temp = old if old.is_dir() and not old.is_symlink() else None
    return replace(found, recorded_ray_temp=record.ray_temp)


def _key_of_leaders(layout: HomeLayout, record: StackRecord) -> str | None:
    """The key in the leaders' marks. An older release took it from the path that the home was called by."""
    for leader in record.leaders.values():
        key, colon, _ = environment_of(leader).get(MARK, "").partition(":")
        # Each works in a folder of its home. A record that was copied to another home names the same processes.
        if colon and _works_in(leader, layout.home):
            return key
    return None


def _works_in(leader: SessionLeader, home: Path) -> bool:
    try:
        return FolderId.of(working_directory(leader).parent) == FolderId.of(home)
    except OSError:
        return False
