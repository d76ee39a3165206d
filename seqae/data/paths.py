"""Allowed roots: the folders that a path of a spec may lie in, and files that are opened without being trusted."""

import json
import os
import stat
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Self

from seqae.errors import DataError

__all__ = ["ROOTS_VARIABLE", "AllowedRoots", "NotRegularError", "open_regular", "printable", "roots_from_environment"]

ROOTS_VARIABLE = "SEQAE_DATA_ROOTS"
"""Environment variable with further roots: a JSON list of absolute folders."""


class NotRegularError(OSError):
    """A path that is a folder, pipe, socket or device in place of a file."""


def printable(name: str) -> str:
    """A file name fit for a log or for JSON: bytes that are not UTF-8 and control characters are shown as escapes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def roots_from_environment() -> tuple[Path, ...]:
    """The folders that SEQAE_DATA_ROOTS names.

    Raises:
        DataError: it is not a JSON list of absolute paths.
    """
    text = os.environ.get(ROOTS_VARIABLE, "").strip()
    if not text:
        return ()
    try:
        names = json.loads(text)
        if not isinstance(names, list) or not all(isinstance(name, str) and Path(name).is_absolute() for name in names):
            raise ValueError("not a list of absolute paths")
    except (ValueError, RecursionError) as error:
        raise DataError(f"{ROOTS_VARIABLE} is not a JSON list of absolute paths") from error
    return tuple(Path(name) for name in names)


@dataclass(frozen=True)
class AllowedRoots:
    """The folders that a path of a spec may lie in, after links are followed.

    What lies outside of them is refused with the same words whether it exists or not, so that a spec can't be used to
    find out what is on the machine.

    Args:
        data_dir: where relative paths start; a root itself.
        folders: further roots.
    """

    data_dir: Path | None = None
    folders: tuple[Path, ...] = ()

    @classmethod
    def configured(cls, data_dir: Path | None) -> Self:
        """The data folder, and what SEQAE_DATA_ROOTS names.

        Raises:
            DataError: that variable is not a JSON list of absolute paths.
        """
        return cls(data_dir, roots_from_environment())

    def contain(self, path: Path) -> bool:
        """Whether a path lies in one of the roots, after links are followed; also if nothing is there."""
        return self._resolved(path) is not None

    def locate(self, path: str, field: str) -> Path:
        """A path of a spec as an existing one without links; a relative path starts at the data folder.

        Args:
            path: as the spec has it.
            field: of the spec, for the error.

        Raises:
            DataError: it lies outside of the roots, or nothing is there, or it is relative and there is no data folder.
        """
        given = Path(path)
        if not given.is_absolute():
            if self.data_dir is None:
                raise DataError(
                    f"{field}: {printable(path)} is relative to the data folder (SEQAE_DATA_DIR), and none is set"
                )
            given = self.data_dir / given
        # Checked by its letters first: what `..` leads out of is not looked at on the disk at all.
        resolved = self._resolved(given) if self._lexically_inside(given) else None
        if resolved is None:
            raise DataError(
                f"{field}: {printable(path)} is not below the data folder (SEQAE_DATA_DIR) "
                f"or one of the further roots ({ROOTS_VARIABLE})"
            )
        try:
            resolved.stat()
        except (OSError, ValueError) as error:
            raise DataError(f"{field}: there is no {printable(str(given))}") from error
        return resolved

    def _roots(self) -> tuple[Path, ...]:
        return (*((self.data_dir,) if self.data_dir is not None else ()), *self.folders)

    def _lexically_inside(self, path: Path) -> bool:
        plain = Path(os.path.normpath(path))
        return any(
            plain.is_relative_to(form)
            for root in self._roots()
            for form in (Path(os.path.normpath(root.absolute())), root.resolve())
        )

    def _resolved(self, path: Path) -> Path | None:
        """The path without links, if it lies in a root."""
        try:
            resolved = path.resolve()
            return resolved if any(resolved.is_relative_to(root.resolve()) for root in self._roots()) else None
        except (OSError, ValueError, RuntimeError):  # a link to itself, a name that is too long or has a null byte
            return None


def open_regular(path: Path) -> BufferedReader:
    """Opens a file for reading if it is a regular one; never waits for the other end of a pipe.

    Raises:
        NotRegularError: it is a folder, pipe, socket or device.
        OSError: it can't be opened.
    """
    # A pipe without a writer would block here, and a device could do anything.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotRegularError("not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
