"""Join token file: what a second machine needs to join an embedded stack's cluster, the cluster's secret included."""

import os
from pathlib import Path

from pydantic import ValidationError

from jobs.directory.files import write_atomically
from jobs.directory.storage_marker import NAME, ensure_marker, read_marker
from jobs.errors import StorageRefused, StorageUnavailable
from jobs.storage.locations import STORAGE_VARIABLE, check_storage, open_storage
from service.connection import read_private_file
from service.errors import StackError
from service.local.home import HomeLayout
from service.schemas.cluster import JoinInformation, Versions

__all__ = ["JoinTicket", "check_folders", "check_versions", "make_ticket", "read_ticket", "read_token", "write_ticket"]

_MOST_BYTES = 100_000
_SHORTEST_TOKEN = 16


class JoinTicket(JoinInformation):
    """Content of the join token file."""

    ray_token: str
    """Ray's token. Who has it can run anything on the cluster."""

    def __repr__(self) -> str:
        """Without the secret."""
        return f"JoinTicket({self.head_address})"


def make_ticket(layout: HomeLayout, head_address: str, data_dir: Path | None) -> JoinTicket:
    """What a machine needs to join the cluster of a home folder's stack.

    Args:
        layout: of the home.
        head_address: where Ray's head listens for machines, as `host:port`.
        data_dir: the user's own data.
    """
    return JoinTicket(
        head_address=head_address,
        versions=Versions.installed(),
        storage=str(layout.home),
        storage_marker=ensure_marker(layout.home),
        bucket=os.environ.get(STORAGE_VARIABLE) or None,
        data_dir=None if data_dir is None else str(data_dir),
        ray_token=layout.token.read_text().strip(),
    )


def write_ticket(path: Path, ticket: JoinTicket) -> None:
    """Replaces the join token file in one step; it is readable by its owner alone. Raises: OSError."""
    write_atomically(path, ticket.model_dump_json(indent=2))
    path.chmod(0o600)


def read_ticket(path: Path) -> JoinTicket:
    """The content of a join token file.

    Raises:
        StackError: it can't be read, others can read it, or it is none; the text quotes nothing of it.
    """
    content = _read(path)
    try:
        return JoinTicket.model_validate_json(content)
    except ValidationError as error:
        fields = sorted({".".join(str(part) for part in problem["loc"]) for problem in error.errors()} - {""})
        what = f" (at fault: {', '.join(fields[:5])})" if fields else ""
        raise StackError(f"{path} is no join token file of this release{what}; `seqae up --head` writes one") from error


def read_token(path: Path) -> str:
    """Ray's token, out of a join token file or a file that holds nothing else.

    Raises:
        StackError: as for `read_ticket`.
    """
    content = _read(path).strip()
    if content.startswith(b"{"):
        return read_ticket(path).ray_token
    if len(content) < _SHORTEST_TOKEN or not content.isascii() or len(content.split()) != 1:
        raise StackError(f"{path} holds no token")
    return content.decode("ascii")


def _read(path: Path) -> bytes:
    try:
        content = read_private_file(path, _MOST_BYTES + 1, str(path), StackError)
    except OSError as error:
        raise StackError(f"the join token file {path} can't be read: {error.strerror or error}") from error
    if len(content) > _MOST_BYTES:
        raise StackError(f"{path} is too large for a join token file")
    return content


def check_versions(wanted: Versions) -> None:
    """Refuses a machine with other versions than the cluster's.

    Raises:
        StackError: with each that differs, here and there.
    """
    differing = Versions.installed().differences(wanted)
    if differing:
        said = "; ".join(f"{name} is {here} here and {there} there" for name, (here, there) in differing.items())
        raise StackError(f"this machine can't join: {said}. Install what the head has (deploy/constraints.txt)")


def check_folders(information: JoinInformation) -> None:
    """Refuses a machine that does not have the cluster's folders: jobs are told absolute paths below them.

    Raises:
        StackError: the storage is not the same folder as at the head, or a bucket that can't be used from here, or
            there is no data folder.
    """
    if information.bucket is None:
        _check_shared_folder(information)
    else:
        _check_bucket(information.bucket)
    if information.data_dir is not None and not Path(information.data_dir).is_dir():
        raise StackError(f"the data folder {information.data_dir} is not here; mount the head's at the same path")


def _check_bucket(url: str) -> None:
    """Refuses a machine that can't use the cluster's object storage: its processes would find no job."""
    try:
        check_storage(open_storage(url))
    except (StorageRefused, StorageUnavailable) as error:
        raise StackError(f"the cluster's storage {url} can't be used here: {error}") from error


def _check_shared_folder(information: JoinInformation) -> None:
    storage = Path(information.storage)
    try:
        marker = read_marker(storage)
    except OSError as error:
        raise StackError(f"{storage} can't be used here: {error.strerror or error}") from error
    if marker != information.storage_marker:
        what = "is another folder than the head's" if marker is not None else f"is not here (no {NAME} in it)"
        raise StackError(f"the cluster's storage {storage} {what}; mount the head's folder at the same path, as by NFS")
    if not os.access(storage, os.R_OK | os.W_OK | os.X_OK):
        raise StackError(f"this user can't write into the cluster's storage {storage}")
