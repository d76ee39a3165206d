"""Thinning of film strips: of a run that made many, an even choice is kept."""

from collections.abc import Sequence
from contextlib import suppress

from jobs.directory.layout import JobFolder
from service.disk.sizes import Size, size_of

__all__ = ["chosen", "runs_of", "thin"]


def chosen(steps: Sequence[int], most: int) -> list[int]:
    """Of growing steps an even choice, with the first and the last.

    Args:
        steps: of the film strips, in order.
        most: how many may stay, at least 2.
    """
    if len(steps) <= most:
        return list(steps)
    last = len(steps) - 1
    return [steps[round(index * last / (most - 1))] for index in range(most)]


def runs_of(folder: JobFolder) -> list[JobFolder]:
    """The job's own folder, and those of a search's trials."""
    trials = folder.path / "trials"
    names = [path.name for path in trials.iterdir()] if trials.is_dir() else []
    return [folder, *(folder.trial(int(name)) for name in names if name.isascii() and name.isdecimal())]


def thin(folder: JobFolder, most: int) -> Size:
    """Removes film strips of a run until at most so many are left, and says what went.

    Those that have not been copied to MLflow yet stay. A repeated call removes nothing more.

    Raises:
        FolderError: shipped.json is damaged.
    """
    paths = {step: attempt.frames / f"{step}.png" for attempt in folder.attempts() for step in attempt.frame_steps()}
    steps = sorted(paths)
    if len(steps) <= most:
        return Size()
    kept, shipped = set(chosen(steps, most)), folder.read_shipped().frames
    gone = Size()
    for step in steps:
        if step not in kept and step <= shipped:
            size = size_of(paths[step])
            with suppress(OSError):
                paths[step].unlink()
                gone += size
    return gone
