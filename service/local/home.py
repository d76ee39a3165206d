"""Paths of a home folder's stack, whom they may be read by, and the folder for Ray's sockets outside of it."""

import hashlib
import os
import secrets
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Self

from jobs.directory.storage_marker import NAME, ensure_marker
from service.errors import StackError

__all__ = ["DaemonName", "HomeLayout", "make_private_folder", "usual_ray_temp"]

_LONGEST_SOCKET = 107
"""Bytes of a socket's path that the kernel takes."""

_BELOW_RAY_TEMP = 70
"""Bytes that Ray puts behind its folder: `/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store`."""

_LONGEST_RAY_TEMP = _LONGEST_SOCKET - _BELOW_RAY_TEMP

_PRIVATE = 0o700


class DaemonName(StrEnum):
    """The daemons of the stack, as stack.json and the log files name them."""

    RAY = "ray"
    MLFLOW = "mlflow"
    API = "api"


@dataclass(frozen=True)
class HomeLayout:
    """Paths of one home folder's stack, all absolute."""

    home: Path
    recorded_key: str | None = None
    """Key under which the stack was started, where that is not the path's own: it was called by another name."""
    recorded_ray_temp: Path | None = None
    """Folder of Ray's sockets of a stack that was started before."""

    @classmethod
    def at(cls, home: Path) -> Self:
        """The layout of a home folder by whatever name: links, `..` and the like are resolved, as the kernel would.

        Raises:
            StackError: the path can't be that of a folder.
        """
        try:
            resolved = home.expanduser().resolve()
            str(resolved).encode()
        except UnicodeEncodeError as error:
            raise StackError(f"the path {os.fsencode(home)!r} is not UTF-8; choose another home folder") from error
        except (OSError, RuntimeError, ValueError) as error:
            raise StackError(f"{home} can't be a home folder: {error}") from error
        if resolved.exists() and not resolved.is_dir():
            raise StackError(f"{home} can't be a home folder: it is a file")
        return cls(resolved)

    @property
    def state(self) -> Path:
        """Record of the ports and processes of the stack."""
        return self.home / "stack.json"

    @property
    def lock(self) -> Path:
        """Lock file: held while the stack is started or ended."""
        return self.home / "stack.lock"

    @property
    def logs(self) -> Path:
        """Folder with the output of each daemon, in `<name>.log`."""
        return self.home / "logs"

    @property
    def token(self) -> Path:
        """Ray's authentication token, readable by its owner alone."""
        return self.home / "ray.token"

    @property
    def join_token(self) -> Path:
        """Join token file, see `service.local.join_ticket`; there only while machines may join."""
        return self.home / "join.token"

    @property
    def key(self) -> str:
        """Short name of this home, for the processes' marks and for paths that must be short."""
        return self.recorded_key or self.own_key

    @property
    def own_key(self) -> str:
        """The key that a stack gets which is started by this path."""
        return hashlib.sha256(str(self.home).encode()).hexdigest()[:10]

    @property
    def ray_temp(self) -> Path:
        """Folder of Ray's sockets and logs, too long to lie below the home, whatever TMPDIR says.

        Ray gives its folders to everybody (mode 0777), so it lies in a folder that only this user may enter.
        """
        return self.recorded_ray_temp or usual_ray_temp(self.key)

    @property
    def mlflow(self) -> Path:
        """Folder of the tracking server: its database and its artifacts."""
        return self.home / "mlflow"

    @property
    def mlflow_database(self) -> Path:
        """SQLite database of the tracking server."""
        return self.mlflow / "mlflow.db"

    def mark(self, daemon: DaemonName) -> str:
        """Value of the environment variable that the processes of a daemon carry, see `processes.MARK`."""
        return f"{self.key}:{daemon}"

    def make_home(self) -> None:
        """Makes the home folder, for its owner alone.

        Raises:
            StackError: it can't be made.
        """
        try:
            self.home.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        except OSError as error:
            raise StackError(f"{self.home} can't be made: {error.strerror or error}") from error

    def prepare(self) -> None:
        """Makes the folders and Ray's token, and closes them to other users.

        Raises:
            StackError: one of them can't be made.
        """
        self.make_home()
        try:
            for folder in (self.logs, self.mlflow, self.home / "jobs", self.home / "control"):
                folder.mkdir(mode=_PRIVATE, exist_ok=True)
            self._close_to_others()
            if not self.token.exists():
                handle = os.open(self.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "w") as file:
                    file.write(secrets.token_hex(32))
            ensure_marker(self.home)
        except OSError as error:
            raise StackError(f"{self.home} can't be used: {error}") from error

    def with_ray_temp(self) -> Self:
        """Makes the folder of Ray's sockets.

        Returns:
            The layout with that folder: one of another name where a stranger holds the usual one.

        Raises:
            StackError: it can't be made.
        """
        return replace(self, recorded_ray_temp=make_private_folder(self.ray_temp))

    def _close_to_others(self) -> None:
        """Takes away what an earlier release, or a lax umask, gave to others."""
        folders = [self.home / name for name in ("logs", "mlflow", "jobs", "control", "data", "models", "nodes")]
        files = [self.state, self.lock, *self.logs.glob("*.log"), *self.mlflow.glob("mlflow.db*")]
        files += (self.home / "control").glob("jobs.db*")
        # A home folder that holds the user's other things as well is left as it is.
        own = {*folders, *files, self.token, self.join_token, self.home / NAME}
        if all(path in own or path.name.startswith(f".{self.state.name}.") for path in self.home.iterdir()):
            folders.append(self.home)
        for path in [*folders, *files]:
            with suppress(OSError):
                found = path.lstat()
                if found.st_uid == os.getuid() and found.st_mode & 0o077 and not stat.S_ISLNK(found.st_mode):
                    path.chmod(stat.S_IMODE(found.st_mode) & 0o700)


def _base() -> Path:
    """Folder for temporary files with a short name. TMPDIR's may be too long for sockets."""
    for folder in (Path("/tmp"), Path("/var/tmp")):
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return Path(tempfile.gettempdir())


def usual_ray_temp(name: str) -> Path:
    """Folder of Ray's sockets and logs of a head, or of a machine that joined one, by a short name."""
    return _base() / f"seqae-{os.getuid()}" / name


def make_private_folder(wanted: Path) -> Path:
    """Makes a folder below one that only this user may enter; a folder of another name when that is a stranger's.

    Raises:
        StackError: it can't be made, or its name is too long for Ray's sockets.
    """
    try:
        return _make_private_folder(wanted)
    except OSError as error:
        raise StackError(f"{wanted} can't be made: {error.strerror or error}") from error


def _make_private_folder(wanted: Path) -> Path:
    for _ in range(5):
        if not _is_private(wanted.parent):
            wanted = Path(tempfile.mkdtemp(prefix="seqae-", dir=_base())) / wanted.name
        if len(os.fsencode(wanted)) > _LONGEST_RAY_TEMP:
            raise StackError(f"{wanted} is too long for Ray's sockets; there must be a folder /tmp")
        # Another stack that ends may remove the parent, as long as it is empty.
        with suppress(FileNotFoundError):
            wanted.mkdir(mode=_PRIVATE, exist_ok=True)
            return wanted
    raise StackError(f"{wanted} can't be made")


def _is_private(folder: Path) -> bool:
    """Makes a folder if it is not there; whether it is a folder, no link, and this user's alone."""
    with suppress(FileExistsError):
        folder.mkdir(mode=_PRIVATE)
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
