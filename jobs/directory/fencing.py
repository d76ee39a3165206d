"""Telling attempts what is wanted of them, so that an outdated word never replaces a newer one."""

import fcntl
import logging

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control
from jobs.errors import FolderError

__all__ = ["tell"]

log = logging.getLogger(__name__)


def tell(folder: JobFolder, control: Control) -> None:
    """Writes control.json, unless it speaks to a newer attempt already.

    A process that hung for longer than its lease may come here long after another one has fenced off the attempt that
    it still believes in: that fence must stay.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    with (folder.path / "control.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _may_replace(folder, control):
            folder.write_control(control)


def _may_replace(folder: JobFolder, control: Control) -> bool:
    try:
        known = folder.read_control()
    except FolderError as error:
        log.warning("it is written anew: %s", error)
        return True
    return known.attempt <= control.attempt and known != control
