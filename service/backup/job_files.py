"""Files of a job folder in the order in which a copy of a running job is consistent.

What is written last is copied first: a result before the checkpoints that it names, a search's record before its
trials, checkpoints before the metrics, which may be further than these. So each file that a copied one speaks of is
copied as well, as after a crash at one moment. A checkpoint is copied whole or not at all.
"""

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["CheckpointFiles", "JobFiles", "plain_files"]

_FIRST = ("result.json", "trials.jsonl")
"""Of each attempt, in this order."""

_FIRST_OF_RUN = ("comparisons.jsonl", "start.json")
"""Likewise, of a run: what people said of trials, and that weights to start from are there."""

_JOURNAL = "optuna.journal"

_SUB_RUNS = ("trials", "seeds", "retrained")
"""Folders with, or as, the folder of a further training run."""

_RAYS_OWN = ("train", "tune")
"""Of each attempt: what Ray keeps for the processes that run now. The next attempt does not read it."""

_LEFT_OUT = ("shipped.json", "control.json")
"""The first says how much MLflow has, whose copy is older: without it all is sent again, which MLflow takes once. The
second fences off attempts that may be later than those of the copied database; the control plane writes it anew."""


CheckpointFiles = tuple[Path, ...]
"""Files of one checkpoint, its manifest first."""


class JobFiles:
    """Files of one job that belong into a backup.

    Args:
        folder: of the job.
        attempts: number of the newest attempt that the copied database knows; later ones are left out.
    """

    def __init__(self, folder: Path, attempts: int) -> None:
        self._folder = folder
        self._attempts = attempts

    def in_order(self) -> Iterator[Path | CheckpointFiles]:
        """Files and whole checkpoints, each folder listed as late as possible; what goes meanwhile is not there."""
        yield from self._run(self._folder)

    def _run(self, run: Path) -> Iterator[Path | CheckpointFiles]:
        # A trial is in the journal before it has a folder: listed in this order, each folder's trial is known.
        sub_runs = list(self._sub_runs(run))
        attempts = [run / "attempts" / str(number) for number in self._numbers(run / "attempts")]
        done = {run / name for name in _LEFT_OUT}
        for name in _FIRST:
            for attempt in attempts:
                yield attempt / name
                done.add(attempt / name)
        for name in (*_FIRST_OF_RUN, _JOURNAL):
            yield run / name
            done.add(run / name)
        for sub_run in sub_runs:
            yield from self._run(sub_run)
        for attempt in attempts:
            for checkpoint in _newest_first(attempt / "checkpoints"):
                yield tuple(sorted(plain_files(checkpoint), key=lambda path: path.name != "manifest.json"))
        for attempt in attempts:
            for path in plain_files(attempt, skip=("checkpoints", *_RAYS_OWN)):
                if path not in done:
                    yield path
        for path in plain_files(run, skip=("attempts", *_SUB_RUNS)):
            if path not in done:
                yield path

    def _sub_runs(self, run: Path) -> Iterator[Path]:
        for name in ("trials", "seeds"):
            if (run / name).is_dir():
                yield from sorted(path for path in (run / name).iterdir() if path.name.isdecimal())
        if (run / "retrained").is_dir():
            yield run / "retrained"

    def _numbers(self, attempts: Path) -> list[int]:
        names = [path.name for path in attempts.iterdir()] if attempts.is_dir() else []
        numbers = (int(name) for name in names if name.isascii() and name.isdecimal())
        return sorted(number for number in numbers if number <= self._attempts)


def plain_files(folder: Path, skip: tuple[str, ...] = ()) -> Iterator[Path]:
    """Regular files of a folder and of those below it, sorted; no links, drafts of files, or locks.

    Args:
        folder: it may have gone.
        skip: names in the folder itself that are left out.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name in skip or entry.name.startswith(".") or entry.name.endswith(".lock"):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from plain_files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def _newest_first(checkpoints: Path) -> list[Path]:
    """Folders of checkpoints: the newest are those that are pruned last."""
    found = [path for path in checkpoints.iterdir() if path.name.isdecimal()] if checkpoints.is_dir() else []
    return sorted(found, key=lambda path: int(path.name), reverse=True)
