"""Journal of a search: Optuna's own record of its trials, one file in the job's folder."""

import logging
import warnings
from datetime import UTC, datetime
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock  # its class is public, its place is not
from optuna.study import StudyDirection

from jobs.directory.layout import JobFolder
from jobs.specs import TuneSpec
from jobs.tuning.samplers import make_pruner, make_sampler

__all__ = ["JOURNAL", "STUDY", "open_study", "step_of"]

logger = logging.getLogger(__name__)

JOURNAL = "optuna.journal"
"""File of the journal, in the folder of the search."""

STUDY = "search"
"""Name of the study in the journal."""

_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError)
"""What reading a damaged journal can raise."""


class _Lock(BaseJournalFileLock):
    """The journal's lock, which the system takes from a process that was killed."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        """Waits for the lock."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Gives it back."""
        self._lock.release()


def step_of(epoch: float) -> int:
    """The step under which Optuna knows an evaluation: thousandths of an epoch."""
    return round(1000 * epoch)


def open_study(spec: TuneSpec, folder: JobFolder) -> optuna.Study:
    """The study in a search's journal; a journal that can't be read is put aside, and another is begun.

    Args:
        spec: the search.
        folder: the search's.
    """
    path = folder.path / JOURNAL
    folder.path.mkdir(parents=True, exist_ok=True)
    _cut_torn_line(path)
    try:
        return _load(spec, path)
    except _DAMAGE as error:
        aside = path.with_name(f"{JOURNAL}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
        logger.warning("the journal can't be read (%s); it is kept as %s", type(error).__name__, aside.name)
        path.rename(aside)
        return _load(spec, path)


def _load(spec: TuneSpec, path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_Lock(path.with_name(f".{path.name}.lock"))))
    directions = [StudyDirection.MAXIMIZE if higher else StudyDirection.MINIMIZE for higher in spec.goals.values()]
    study = optuna.create_study(
        storage=storage,
        study_name=STUDY,
        directions=directions,
        sampler=make_sampler(spec, 0),
        pruner=make_pruner(spec),
        load_if_exists=True,
    )
    if len(study.directions) != len(directions):
        raise ValueError("the journal is of a search with other objectives")
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(spec.goals))
    return study


def _cut_torn_line(path: Path) -> None:
    """Removes what a killed writer left of a line: the next one would be appended to it."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
