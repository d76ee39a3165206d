"""Token that a client sends: from the environment, or from a file that its owner alone can read."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from service.errors import ApiError

__all__ = ["TOKEN_FILE_VARIABLE", "TOKEN_VARIABLE", "find_token", "write_token"]

TOKEN_VARIABLE = "SEQAE_TOKEN"
TOKEN_FILE_VARIABLE = "SEQAE_TOKEN_FILE"

_MOST_BYTES = 10_000


def find_token(environment: Mapping[str, str]) -> str:
    """The token of SEQAE_TOKEN, or of the file that SEQAE_TOKEN_FILE names; empty where neither is set.

    Raises:
        ApiError: the file can't be read, or others can read it, too.
    """
    token = environment.get(TOKEN_VARIABLE, "").strip()
    name = environment.get(TOKEN_FILE_VARIABLE, "").strip()
    return token if token or not name else _read(Path(name).expanduser())


def _read(path: Path) -> str:
    try:
        # Asked of the open file: its name may lead elsewhere a moment later. A pipe would never end.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ApiError(f"{path} ({TOKEN_FILE_VARIABLE}) is no file")
            if found.st_mode & 0o077:
                mode = stat.S_IMODE(found.st_mode)
                raise ApiError(f"{path} has mode {mode:04o}, so others can read the token: `chmod 600 {path}`")
            return file.read(_MOST_BYTES).decode("ascii").strip()
    except OSError as error:
        raise ApiError(f"{path} ({TOKEN_FILE_VARIABLE}) can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ApiError(f"{path} ({TOKEN_FILE_VARIABLE}) holds no token: it is not ASCII") from error


def write_token(path: Path, token: str) -> None:
    """Writes a token into a new file, which its owner alone can read.

    Raises:
        OSError: it can't be written, or there is such a file already.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(f"{token}\n")
