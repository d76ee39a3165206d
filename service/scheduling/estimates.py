"""Estimates of a job's training time and memory, without loading the model library."""

import math
from collections.abc import Iterable

from jobs.directory.stored_specs import parse_spec
from jobs.errors import SpecUnreadable
from jobs.interfaces import Capacity
from jobs.search.space_checks import variants
from jobs.specs import AnySpec, EvaluateSpec, FigureSpec, TrainSpec, TuneSpec, VerifySpec
from seqae.config import ImagesConfig
from service.db.models import JobRow
from service.errors import FieldProblem
from service.scheduling.resources import Demand

__all__ = ["images", "iterations", "memory_bytes", "memory_problems", "seconds"]

NoTraining = FigureSpec | EvaluateSpec | VerifySpec
"""Specs of jobs that train no model: their driver alone works, for seconds."""

# Measured on CPU workers: a driver with ray, torch and mlflow loaded, and a worker before its first batch.
_DRIVER_BYTES = 900_000_000
_WORKER_BYTES = 700_000_000

# Measured too: float32 arrays of the image's and of the patch's size that one write of one image keeps for the
# backward pass. Nearly all of them are the localization network's.
_IMAGE_ARRAYS = {"seeker": 8, "small": 49, "improved": 365}
_PATCH_ARRAYS = 36

_LARGEST_GPU_BYTES = 300e9
"""More than any GPU has; the cluster does not tell how much its own have."""


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
        return alone * math.ceil(spec.most_trials * spec.seeds / at_once)
    return alone


def memory_bytes(spec: TrainSpec | NoTraining, demand: Demand) -> int:
    """About how much memory driver and workers take: a fixed share each, the data set, and what one batch needs."""
    if isinstance(spec, NoTraining):
        return _DRIVER_BYTES  # its driver does it
    activations = _kept_by_a_step(spec, spec.scaling.min_workers) * spec.model.steps
    return _DRIVER_BYTES + demand.workers * (_WORKER_BYTES + activations + _data_bytes(spec))


def memory_problems(spec: AnySpec, capacity: Capacity) -> tuple[FieldProblem, ...]:
    """Why no machine of the cluster has the memory for one worker; empty where one has, or none tells its size.

    It counts the least that a worker can do with, so that nothing is refused that would run. Of a search each value is
    looked at beside the base's others.
    """
    if isinstance(spec, NoTraining):
        return ()
    if isinstance(spec, TrainSpec):
        return _problems_of(spec, capacity, "#")
    found = _problems_of(spec.base, capacity, "#/base")
    if found:
        return found
    for pointer, fields in variants(spec.space, spec.base.model_dump(mode="json")):
        for problem in _problems_of(TrainSpec.model_validate(fields), capacity, "#/base"):
            return (FieldProblem(f"#/{pointer}", problem.detail),)
    return ()


def _problems_of(train: TrainSpec, capacity: Capacity, at: str) -> tuple[FieldProblem, ...]:
    largest = max((node.memory_bytes for node in capacity.nodes), default=0.0)
    found = []
    on_gpu = train.scaling.gpus_per_worker > 0
    activations = _least_activations(train)
    room, where = (_LARGEST_GPU_BYTES, "no GPU") if on_gpu else (largest, "the largest machine")
    if room > 0 and activations > room:
        field = "schedule/batch_size" if train.schedule.batch_size > train.scaling.max_workers else "model/steps"
        has = "has as much" if on_gpu else f"has {_readable(room)}"
        detail = f"the images of one worker's batch need about {_readable(activations)}; {where} {has}"
        found.append(FieldProblem(f"{at}/{field}", detail))
    data = _data_bytes(train)
    if images(train) is not None and 0 < largest < data:
        detail = f"so many scenes of this size need {_readable(data)}; the largest machine has {_readable(largest)}"
        found.append(FieldProblem(f"{at}/data/train_scenes", detail))
    return tuple(found)


def _kept_by_a_step(spec: TrainSpec, workers: int) -> int:
    """Bytes that one write of one worker's images keeps for the backward pass."""
    model, side = spec.model, spec.model.attention.kernel_size
    batch = math.ceil(spec.schedule.batch_size / max(1, workers))
    kept = _IMAGE_ARRAYS[model.localizer.kind] * _image_values(spec) + _PATCH_ARRAYS * side * side * model.channels
    return 4 * batch * kept


def _least_activations(spec: TrainSpec) -> int:
    """With as many workers as may be, and everything that saves memory counted in full."""
    # Recomputed activations are kept of one write at a time.
    writes = 1 if spec.schedule.checkpoint_activations else spec.model.steps
    halved = 2 if spec.schedule.precision == "bfloat16" else 1
    return _kept_by_a_step(spec, spec.scaling.max_workers) * writes // halved


def _image_values(spec: TrainSpec) -> int:
    return spec.model.height * spec.model.width * spec.model.channels


def _data_bytes(spec: TrainSpec) -> int:
    return (images(spec) or 0) * _image_values(spec)


def _readable(size: float) -> str:
    """A number of bytes for people: 1.5e9 gives "1.5 GB"."""
    units = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
    power = 0
    while size >= 1000 and power < len(units) - 1:
        size, power = size / 1000, power + 1
    return f"{size:.3g} {units[power]}"


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
