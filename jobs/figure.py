"""Driver of a figure job: `python -m jobs.figure --job-dir DIR --attempt N`.

The driver itself makes the figure, in seconds and on one core. The picture goes to frames/0.png, where the service
shows it, and with its caption and numbers to artifacts/, which go to the tracking server as they are.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from jobs.directory.files import write_atomically
from jobs.directory.layout import AttemptFolder
from jobs.directory.records import Outcome, Phase, Progress, Result
from jobs.driver import DriverContext, drive
from jobs.evaluation.figure_files import write_figure
from jobs.evaluation.model_sources import find_model
from jobs.specs import FigureSpec
from seqae.figures.figure import Figure, FigureName
from seqae.figures.make import Material, make_figure

__all__ = ["main"]

_NEEDS_NO_MODEL: tuple[FigureName, ...] = (4,)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the attempt that the arguments name, and returns the exit status.

    Args:
        argv: see `jobs.driver.drive`.
    """
    return drive(_run, argv)


def _run(context: DriverContext) -> Result:
    from seqae.compute.cpu_threads import set_threads

    set_threads(1)
    spec = context.folder.read_spec()
    if not isinstance(spec, FigureSpec):
        raise TypeError(f"{context.folder.path}: not a figure")
    _write_progress(context.attempt, Phase.DATA, 0)
    material = Material(context.cache_dir, context.data_dir)
    if spec.figure not in _NEEDS_NO_MODEL:
        material = find_model(
            spec.model, context.folder.path.parent, context.tracking, material, context.fetch_job
        ).material
    figure = make_figure(spec.figure, replace(material, data=spec.data), index=spec.index, seed=spec.seed)
    _write_figure(context.attempt, spec.figure, figure)
    _write_progress(context.attempt, Phase.FINALIZING, 1)
    return Result(outcome=Outcome.SUCCEEDED, metrics=dict(figure.numbers), iterations=1)


def _write_progress(attempt: AttemptFolder, phase: Phase, done: int) -> None:
    now = time.time()
    attempt.write_progress(Progress(time=now, last_progress_at=now, phase=phase, iteration=done, iterations=1))


def _write_figure(attempt: AttemptFolder, name: FigureName, figure: Figure) -> None:
    write_atomically(attempt.frames / "0.png", write_figure(attempt, name, figure))
    attempt.add_metrics(0, {f"figure/{number}": value for number, value in figure.numbers.items()})


if __name__ == "__main__":
    sys.exit(main())
