"""Carry-over of checkpoints and metrics from an ended job to the one that repeats it.

The new job gets them as an attempt 0 of its own.
"""

import os
import shutil
from pathlib import Path

from jobs.directory.files import write_atomically
from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.directory.records import Outcome, Result

__all__ = ["inherit_run", "inherit_search"]

_CHECKPOINTS = 2
"""How many are carried over: the newest may be damaged."""


def inherit_run(before: JobFolder, mine: JobFolder) -> None:
    """Carries over a training run's newest checkpoints and its metrics up to there. A repeated call does nothing.

    Args:
        before: the run that has ended.
        mine: the run that goes on from there.

    Raises:
        OSError: the disk is full or a folder can't be written; the next call begins again.
    """
    checkpoints = _checkpoints(before)[:_CHECKPOINTS]
    if checkpoints:
        _take(before, mine, checkpoints, last=max(int(path.name) for path in checkpoints))


def inherit_search(before: JobFolder, mine: JobFolder) -> None:
    """Carries over a search's trials. A repeated call does nothing.

    Those that succeeded or were stopped stay so; those that failed or were cut short go on from their checkpoints.

    Args:
        before: the search that has ended.
        mine: the search that goes on from there.

    Raises:
        OSError: as `inherit_run`.
    """
    if mine.attempt(0).path.exists():
        return
    if before.answers.is_file():
        write_atomically(mine.answers, before.answers.read_bytes())
    done = {number: row for number, row in before.trials().items() if row.state.has_model}
    for folder in sorted((before.path / "trials").glob("*")):
        number = int(folder.name)
        _inherit_trial(before.trial(number), mine.trial(number), is_done=number in done)
        for seed in sorted((folder / "seeds").glob("*")):
            own = mine.trial(number).path / "seeds" / seed.name
            _inherit_trial(JobFolder(seed, before.path), JobFolder(own, mine.path), is_done=number in done)
    # Last: it says that all trials have been taken over.
    rows = "".join(row.model_dump_json() + "\n" for row in done.values())
    write_atomically(mine.attempt(0).path / "trials.jsonl", rows)


def _inherit_trial(before: JobFolder, mine: JobFolder, *, is_done: bool) -> None:
    """Carries over one training run of a trial, with its spec, which says what was proposed for it."""
    # Its driver may have died before it heard of the end.
    if is_done or any(map(_success, before.attempts())):
        _take(before, mine, _checkpoints(before))
    else:
        inherit_run(before, mine)
    if (before.path / "spec.json").is_file():
        write_atomically(mine.path / "spec.json", (before.path / "spec.json").read_bytes())


def _take(before: JobFolder, mine: JobFolder, checkpoints: list[Path], last: int | None = None) -> None:
    """Makes attempt 0.

    Args:
        before: what is taken over.
        mine: the folder that gets it.
        checkpoints: to take.
        last: step up to which the curve is taken, for a run that goes on; None: all of it and the result, for one
            that has ended.
    """
    target = mine.attempt(0).path
    if target.exists():
        return
    draft = target.with_name(".0.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    for path in checkpoints:
        shutil.copytree(path, draft / "checkpoints" / path.name, copy_function=_link_or_copy)
    rows = [row.model_dump_json() + "\n" for row in before.history() if last is None or row.step <= last]
    write_atomically(draft / "metrics.jsonl", "".join(rows))
    if last is None:
        for result in filter(None, map(_success, before.attempts())):
            AttemptFolder(draft, 0).write_result(result.model_copy(update={"checkpoint": None}))
        _take_last_frame(before, draft)
    draft.rename(target)


def _take_last_frame(before: JobFolder, draft: Path) -> None:
    """Takes the newest film strip of a run that has ended: people may still have to compare it with others."""
    found = {step: attempt.frames / f"{step}.png" for attempt in before.attempts() for step in attempt.frame_steps()}
    if found:
        step = max(found)
        (draft / "frames").mkdir(exist_ok=True)
        _link_or_copy(str(found[step]), str(draft / "frames" / f"{step}.png"))


def _checkpoints(folder: JobFolder) -> list[Path]:
    """Newest first; of those of the same step the later attempt's."""
    return list({path.name: path for path in reversed(folder.checkpoint_paths())}.values())[::-1]


def _success(attempt: AttemptFolder) -> Result | None:
    result = attempt.read_result()
    return result if result is not None and result.outcome is Outcome.SUCCEEDED else None


def _link_or_copy(source: str, target: str) -> None:
    """A link takes no room and no time. Files of a checkpoint are never written to, so sharing them is safe."""
    try:
        os.link(source, target)
    except OSError:
        # Not every network file system has links.
        shutil.copy2(source, target)
