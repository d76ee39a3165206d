"""Sources of a figure: the model that its spec names, and the record of that model's training."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from jobs.directory.layout import JobFolder
from jobs.directory.records import MetricRow
from jobs.errors import NoModel
from jobs.interfaces import Tracking
from jobs.specs import TrainSpec
from seqae.figures.figure import Curve
from seqae.figures.make import CURVES, Material

__all__ = ["find_material", "material_of"]


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

    Args:
        job: its folder.
        base: what is known already.
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
