"""Program that makes a backup or restores one: `python -m service.backup`.

`seqae backup` and `seqae restore` start it: the command line itself knows nothing of the database. The request is JSON
on standard input; on standard output are lines of JSON that say how far it is, and a last one that says what was done.
"""

import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from pydantic import ValidationError

from seqae.errors import Error
from service.backup.create import create_backup
from service.backup.restore import restore_backup
from service.schemas.backup import BackupOperation, BackupProgress, BackupRequest, BackupSummary
from service.settings import Settings

__all__ = ["main"]

_SAY_EVERY = 0.5
"""Seconds between two lines at least."""


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Reporter:
    """Writes lines on the progress, not too many."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, progress: BackupProgress) -> None:
        now = time.monotonic()
        if now - self._last >= _SAY_EVERY:
            self._last = now
            print(progress.model_dump_json(), flush=True)


def _run(asked: BackupRequest) -> BackupSummary:
    settings = Settings.from_environment().model_copy(update={"home": asked.home})
    if asked.operation is BackupOperation.BACKUP:
        return create_backup(asked.archive, settings, asked.data_dir, _Reporter())
    return restore_backup(asked.archive, settings, asked.by, _Reporter())


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    # What was begun is taken back, whoever is in a hurry.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Answers the request on standard input; the exit status."""
    os.umask(0o077)
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    try:
        summary = _run(BackupRequest.model_validate_json(sys.stdin.buffer.read()))
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        print(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or 'the disk'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except Error as error:
        print(str(error).partition("\n")[0], file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(summary.model_dump_json(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
