"""Estimates of a job's training time and memory, without loading the model library."""

import math
from collections.abc import Iterable

from jobs.directory.stored_specs import parse_spec
from jobs.errors import SpecUnreadable
from jobs.specs import AnySpec, EvaluateSpec, FigureSpec, TrainSpec, TuneSpec
from seqae.config import ImagesConfig
from service.db.models import JobRow
from service.scheduling.resources import Demand

__all__ = ["images", "iterations", "memory_bytes", "seconds"]

NoTraining = FigureSpec | EvaluateSpec
"""Specs of jobs that train nothing: their driver alone works, for seconds."""

# Measured on CPU workers: a driver with ray, torch and mlflow loaded, and a worker before its first batch.
_DRIVER_BYTES = 900_000_000
_WORKER_BYTES = 700_000_000

# Measured too: float32 arrays of the image's and of the patch's size that one write of one image keeps for the
# backward pass. Nearly all of them are the localization network's.
_IMAGE_ARRAYS = {"seeker": 8, "small": 49, "improved": 365}
_PATCH_ARRAYS = 36


def images(spec: TrainSpec | NoTraining) -> int | None:
    """Training images; None when only the folder knows. A figure or an evaluation trains on none."""
    if isinstance(spec, NoTraining):
        return 0
    return None if isinstance(spec.data, ImagesConfig) else spec.data.train_scenes


def iterations(spec: TrainSpec | NoTraining) -> int:
    """Optimizer steps; with a folder of images, at most."""
    if isinstance(spec, NoTraining):
        return 0
    number = spec.data.train_images if isinstance(spec.data, ImagesConfig) else spec.data.train_scenes
    return spec.schedule.iterations(number)


def seconds(spec: AnySpec, demand: Demand, succeeded: Iterable[JobRow]) -> float | None:
    """About how long it trains: at the speed of the newest job here that trained the same model on as many workers.

    A search is taken to run every trial to its end, though most are stopped early. A figure and an evaluation take
    seconds.
    """
    if isinstance(spec, NoTraining):
        return None
    train = spec.base if isinstance(spec, TuneSpec) else spec
    speed = next((found for row in succeeded if (found := _speed(row, train)) is not None), None)
    if speed is None:
        return None
    alone = iterations(train) * train.schedule.batch_size / speed
    if isinstance(spec, TuneSpec):
        at_once = max(1, demand.workers // train.scaling.min_workers)
        return alone * math.ceil(spec.trials / at_once)
    return alone


def memory_bytes(spec: TrainSpec | NoTraining, demand: Demand) -> int:
    """About how much memory driver and workers take: a fixed share each, the data set, and what one batch needs."""
    if isinstance(spec, NoTraining):
        return _DRIVER_BYTES  # its driver does it
    model, side = spec.model, spec.model.attention.kernel_size
    image = model.height * model.width * model.channels
    batch = math.ceil(spec.schedule.batch_size / max(1, spec.scaling.min_workers))
    kept = _IMAGE_ARRAYS[model.localizer.kind] * image + _PATCH_ARRAYS * side * side * model.channels
    activations = 4 * batch * model.steps * kept
    data = (images(spec) or 0) * image
    return _DRIVER_BYTES + demand.workers * (_WORKER_BYTES + activations + data)


def _speed(row: JobRow, train: TrainSpec) -> float | None:
    """Images a second of an earlier job, if it compares."""
    try:
        earlier = parse_spec(row.spec, row.spec_version)
    except SpecUnreadable:
        return None
    if not isinstance(earlier, TrainSpec) or row.progress is None:
        return None
    same = earlier.model == train.model and earlier.scaling == train.scaling
    same = same and earlier.schedule.batch_size == train.schedule.batch_size
    return row.progress.images_per_second if same else None
