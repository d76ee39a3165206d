"""Sources of models: what a spec names is found among the jobs or in the registry, with the record of its training."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jobs.directory.layout import JobFolder
from jobs.directory.records import MetricRow
from jobs.errors import NoModel
from jobs.interfaces import Tracking
from jobs.specs import TrainSpec
from seqae.figures.figure import Curve
from seqae.figures.make import CURVES, Material

__all__ = ["ModelSource", "find_model", "material_of"]


@dataclass(frozen=True)
class ModelSource:
    """A model that was found."""

    label: str
    """What it is, once and for all: NAME/VERSION, a job's id, or a checkpoint's folder as it was given."""
    material: Material


def find_model(
    model: str,
    jobs_dir: Path,
    tracking: Tracking | None,
    base: Material,
    fetch_job: Callable[[str], None] = lambda _: None,
) -> ModelSource:
    """The model that a spec names, and its record of training where that is here.

    Args:
        model: see `EvaluateSpec.model`.
        jobs_dir: folder with a folder for each job. No other folder is looked into, or told of.
        tracking: asked for registered models; without it only jobs and their checkpoints are found.
        base: what is known already.
        fetch_job: brings a job's folder into `jobs_dir`, by its id, where it is elsewhere.

    Raises:
        NoModel: nothing answers to that name.
        TrackingUnavailable: the registry does not answer.
    """
    fetch_job(model.partition("/")[0])
    folder = _folder_below(jobs_dir, model)
    if folder is not None:
        if (folder / "spec.json").is_file():
            return ModelSource(folder.name, material_of(JobFolder(folder), base))
        if (folder / "manifest.json").is_file():
            return ModelSource(model, replace(base, checkpoint=folder))
    if Path(model).is_absolute():
        raise NoModel(f"{model!r} is no job and no checkpoint in the folder of all jobs")
    if tracking is None:
        raise NoModel(f"{model!r} is no job here, and no registry was named")
    found = tracking.resolve(model)
    fetch_job(found.job_id)
    job = jobs_dir / found.job_id
    known = material_of(JobFolder(job), base) if (job / "spec.json").is_file() else base
    return ModelSource(found.key.label, replace(known, checkpoint=found.path))


def _folder_below(jobs_dir: Path, name: str) -> Path | None:
    """The folder of a name or path, if it lies below that of all jobs, links resolved."""
    try:
        path = (jobs_dir / name).resolve()
        inside = path != jobs_dir.resolve() and path.is_relative_to(jobs_dir.resolve()) and path.is_dir()
    except (OSError, RuntimeError, ValueError):
        # Too long, a loop of links, or a character that no path has.
        return None
    return path if inside else None


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
