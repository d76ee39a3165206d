"""Makes one of the paper's figures: `python -m jobs.figure --job-dir DIR --attempt N`.

The driver itself makes it, in seconds and on one core. The picture goes to frames/0.png, where the service shows it,
and with its caption and numbers to artifacts/, which go to the tracking server as they are.
"""

import io
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jobs.directory.files import write_atomically
from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.directory.records import MetricRow, Outcome, Phase, Progress, Result
from jobs.driver import DriverContext, drive
from jobs.errors import NoModel
from jobs.interfaces import Tracking
from jobs.specs import FigureSpec, TrainSpec
from seqae.figures.figure import Curve, Figure, FigureName
from seqae.figures.make import CURVES, Material, make_figure

__all__ = ["find_material", "main", "material_of"]

_NEEDS_NO_MODEL: tuple[FigureName, ...] = (4,)


def main(argv: Sequence[str] | None = None) -> int:
    return drive(_run, argv)


def _run(context: DriverContext) -> Result:
    import torch

    torch.set_num_threads(1)
    spec = context.folder.read_spec()
    if not isinstance(spec, FigureSpec):
        raise TypeError(f"{context.folder.path}: not a figure")
    _tell(context.attempt, Phase.DATA, 0)
    material = Material(context.cache_dir, context.data_dir)
    if spec.figure not in _NEEDS_NO_MODEL:
        material = find_material(spec.model, context.folder.path.parent, context.tracking, material)
    figure = make_figure(spec.figure, replace(material, data=spec.data), index=spec.index, seed=spec.seed)
    _keep(context.attempt, spec.figure, figure)
    _tell(context.attempt, Phase.FINALIZING, 1)
    return Result(outcome=Outcome.SUCCEEDED, metrics=dict(figure.numbers), iterations=1)


def _tell(attempt: AttemptFolder, phase: Phase, done: int) -> None:
    now = time.time()
    attempt.write_progress(Progress(time=now, last_progress_at=now, phase=phase, iteration=done, iterations=1))


def _keep(attempt: AttemptFolder, name: FigureName, figure: Figure) -> None:
    stream = io.BytesIO()
    figure.image.save(stream, "PNG")
    about = {"figure": name, "caption": figure.caption, "numbers": dict(figure.numbers)}
    write_atomically(attempt.artifacts / f"figure-{name}.png", stream.getvalue())
    write_atomically(attempt.artifacts / f"figure-{name}.json", json.dumps(about, indent=2) + "\n")
    write_atomically(attempt.frames / "0.png", stream.getvalue())
    attempt.add_metrics(0, {f"figure/{number}": value for number, value in figure.numbers.items()})


def find_material(model: str, jobs_dir: Path, tracking: Tracking | None, base: Material) -> Material:
    """The model that a spec names, and its record of training where that is here.

    Args:
        model: see `FigureSpec.model`.
        jobs_dir: folder with a folder for each job.
        tracking: asked for registered models; without it only jobs and folders are found.
        base: what is known already.

    Raises:
        NoModel: nothing answers to that name.
        TrackingUnavailable: the registry does not answer.
    """
    path = Path(model)
    if path.is_absolute():
        if (path / "spec.json").is_file():
            return material_of(JobFolder(path), base)
        if path.is_dir():
            return replace(base, checkpoint=path)
        raise NoModel(f"there is no folder {model}")
    is_name = model.isascii() and model.replace("_", "").isalnum()
    if is_name and (jobs_dir / model / "spec.json").is_file():
        return material_of(JobFolder(jobs_dir / model), base)
    if tracking is None:
        raise NoModel(f"{model!r} is no job here, and no registry was named")
    found = tracking.resolve(model)
    job = jobs_dir / found.job_id
    known = material_of(JobFolder(job), base) if (job / "spec.json").is_file() else base
    return replace(known, checkpoint=found.path)


def material_of(job: JobFolder, base: Material) -> Material:
    """The model and the record of a training run; of a search, its winner's.

    A run that has not ended gives its newest checkpoint.
    """
    results = [result for attempt in job.attempts() if (result := attempt.read_result()) is not None]
    chosen = next((result.checkpoint for result in reversed(results) if result.checkpoint), None)
    parts = Path(chosen or "").parts
    run = job.trial(int(parts[1])) if parts[:1] == ("trials",) else job
    checkpoint = job.path / chosen if chosen is not None else next(iter(run.checkpoint_paths()), None)
    spec = run.read_spec()
    config = spec.bare() if isinstance(spec, TrainSpec) else None
    return replace(base, checkpoint=checkpoint, config=config, curves=_curves(run.history()))


def _curves(rows: Iterable[MetricRow]) -> dict[str, Curve]:
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name in CURVES:
            if name in row.metrics:
                points.setdefault(name, []).append((row.step, row.metrics[name]))
    return {
        name: Curve(np.array([step for step, _ in found], np.int64), np.array([value for _, value in found]))
        for name, found in points.items()
    }


if __name__ == "__main__":
    sys.exit(main())
