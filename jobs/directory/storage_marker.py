"""Marker file of a home folder: tells whether the folder that two machines have at the same path is the same one."""

import os
import re
import secrets
from pathlib import Path

__all__ = ["NAME", "ensure_marker", "read_marker"]

NAME = "storage.id"
"""Name of the file, below the home folder."""

_BYTES = 16
_PATTERN = re.compile(rf"[0-9a-f]{{{2 * _BYTES}}}")


def ensure_marker(home: Path) -> str:
    """The marker of a home folder, which is made where there is none yet.

    Raises:
        OSError: it can't be written, or what has its name is no marker.
    """
    found = read_marker(home)
    if found is not None:
        return found
    made = secrets.token_hex(_BYTES)
    part = home / f".{NAME}.{made}"
    part.write_text(made)
    try:
        # Two that make it at once end with the same one: the second link is refused.
        os.link(part, home / NAME)
    except FileExistsError:
        made = read_marker(home) or ""
        if not made:
            raise
    finally:
        part.unlink()
    return made


def read_marker(home: Path) -> str | None:
    """The marker of a home folder; None where there is none, or what has its name is something else.

    Raises:
        OSError: it can't be read.
    """
    try:
        with (home / NAME).open("rb") as file:
            text = file.read(4 * _BYTES).decode("ascii", "replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return text if _PATTERN.fullmatch(text) else None
