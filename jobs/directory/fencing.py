"""Guarded write of control.json, by which the control plane fences off older attempts.

A process that hung for longer than its lease may write long after another one has fenced off the attempt that it still
believes in: that fence must stay.
"""

import logging

from filelock import FileLock

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control
from jobs.errors import FolderError

__all__ = ["issue_control"]

logger = logging.getLogger(__name__)


def issue_control(folder: JobFolder, control: Control) -> None:
    """Writes control.json, unless it names a newer attempt already.

    Args:
        folder: the job's; it is made where it is missing.
        control: what is wanted, and of which attempt.

    Raises:
        OSError: the disk is full or the folder can't be written.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    # Without the lock, an older control could be written between the look at a newer one and its write.
    with FileLock(folder.path / "control.lock"):
        if _may_replace(folder, control):
            folder.write_control(control)


def _may_replace(folder: JobFolder, control: Control) -> bool:
    try:
        known = folder.read_control()
    except FolderError as error:
        logger.warning("control.json is written anew: %s", error)
        return True
    return not known.fences(control.attempt) and known != control
