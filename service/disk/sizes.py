"""Sizes of folders on disk."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Size", "size_of"]

_BLOCK = 512
"""Bytes that `st_blocks` counts in, whatever the file system."""


@dataclass(frozen=True)
class Size:
    """What a file, or a folder with all below it, takes on the disk."""

    bytes: int = 0
    files: int = 0
    newest: float = 0.0
    """Newest time of a change among its files, seconds since 1970; 0 where there is none."""

    def __add__(self, other: "Size") -> "Size":
        return Size(self.bytes + other.bytes, self.files + other.files, max(self.newest, other.newest))


def size_of(path: Path) -> Size:
    """The size of a file or folder; links are not followed, and what goes meanwhile does not count.

    A file with several names in the folder counts once.
    """
    total, files, newest, seen = 0, 0, 0.0, set()
    for entry in _files(str(path)):
        if entry.st_nlink > 1:
            if (entry.st_dev, entry.st_ino) in seen:
                continue
            seen.add((entry.st_dev, entry.st_ino))
        total += entry.st_blocks * _BLOCK
        files += 1
        newest = max(newest, entry.st_mtime)
    return Size(total, files, newest)


def _files(path: str) -> Iterator[os.stat_result]:
    folders = [path]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        yield entry.stat(follow_symlinks=False)
        except NotADirectoryError:
            yield Path(folder).lstat()
        except OSError:
            continue  # it has gone, or is not ours to see
