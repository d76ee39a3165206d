"""Node-local copies of job folders: whose they are, and the removal of those that nobody uses any more.

<node>/jobs/<job>-<attempt>/<job>/    of the machine's processes of one attempt
<node>/data/                          built data sets
"""

import logging
import os
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path

from jobs.errors import FolderError
from jobs.interfaces import submission_id

__all__ = ["make_private", "remove_copies", "remove_old_copies"]

logger = logging.getLogger(__name__)

_KEPT = 7 * 24 * 3600.0
"""Copies that nothing was written to for so many seconds are of a process that is gone."""


def make_private(folder: Path, attempt: int) -> None:
    """Keeps other users of this machine out of the copies, where these lie in a folder in which everybody may write.

    Args:
        folder: of the job, among the copies; it exists.
        attempt: number of the attempt.

    Raises:
        FolderError: another user has made the folder of the copies.
    """
    if not _is_copy(folder, attempt):
        return
    node = folder.parents[2]
    everybodys = stat.S_ISVTX | stat.S_IWOTH
    if node.parent.stat().st_mode & everybodys != everybodys:
        return
    found = node.lstat()
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
        raise FolderError(f"{node} is another user's: name a folder with SEQAE_NODE_DIR")
    node.chmod(0o700)


def remove_copies(folder: Path, attempt: int) -> None:
    """Removes the copies of an attempt.

    Args:
        folder: of the job, among the copies.
        attempt: number of the attempt.
    """
    if _is_copy(folder, attempt):
        shutil.rmtree(folder.parent, ignore_errors=True)


def remove_old_copies(folder: Path, attempt: int) -> None:
    """Removes what killed processes have left on this machine: the job's older attempts, and whatever is old.

    Args:
        folder: of the job, among the copies.
        attempt: number of the attempt that runs; it must be the newest.
    """
    if not _is_copy(folder, attempt) or not folder.parent.parent.is_dir():
        return
    oldest = time.time() - _KEPT
    for copies in folder.parent.parent.iterdir():
        job_id, _, number = copies.name.rpartition("-")
        is_older = job_id == folder.name and number.isdecimal() and int(number) < attempt
        if copies != folder.parent and (is_older or _newest_change(copies) < oldest):
            logger.info("removing the copies of %s", copies.name)
            shutil.rmtree(copies, ignore_errors=True)


def _is_copy(folder: Path, attempt: int) -> bool:
    """Whether the folder lies in one for this attempt alone; another layout is not ours to remove."""
    return folder.parent.name == submission_id(folder.name, attempt)


def _newest_change(folder: Path) -> float:
    """When something in a folder was written last, seconds since 1970."""
    times = [folder.lstat().st_mtime]
    for below, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                times.append((Path(below) / name).lstat().st_mtime)
    return max(times)
