"""Finds the home folder, in which a stack keeps everything: by --home, by SEQAE_HOME, or as git finds a repository."""

import os
from collections.abc import Iterator
from pathlib import Path

from seqae.errors import Error

__all__ = ["find_home"]

_NAME = ".seqae"


def find_home(given: str | None = None) -> Path:
    """The home folder, absolute; it need not exist.

    Without a name it is the nearest `.seqae` of the current folder and those above it that belongs to this user, and
    else the user's own, `seqae` in XDG_DATA_HOME or in ~/.local/share.

    Args:
        given: by the user, with --home or SEQAE_HOME.

    Raises:
        Error: an empty name, or a file.
    """
    if given is not None and not given.strip():
        raise Error("--home is empty; name a folder, or leave it out")
    try:
        home = _nearest() if given is None else Path(given).expanduser().absolute()
        is_other = home.exists() and not home.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise Error(f"the home folder can't be found: {error}") from error
    if is_other:
        raise Error(f"the home folder {home} is a file; move it away, or name a folder with --home")
    return home


def _nearest() -> Path:
    for folder in _upwards():
        candidate = folder / _NAME
        # One in a folder that all may write to, such as /tmp, could be anybody's.
        if candidate.exists() and candidate.stat().st_uid == os.geteuid():
            return candidate
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    # As its specification says, a relative path is ignored.
    return (data if data.is_absolute() else Path.home() / ".local" / "share") / "seqae"


def _upwards() -> Iterator[Path]:
    here = Path.cwd()
    yield here
    yield from here.parents
