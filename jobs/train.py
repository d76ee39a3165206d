"""Driver of a training job: `python -m jobs.train --job-dir DIR --attempt N`."""

import sys

from jobs.directory.records import Result
from jobs.driver import DriverContext, connect, drive
from jobs.specs import TrainSpec
from jobs.training.champion_comparison import compare_with_champion
from jobs.training.ray_fit import fit
from jobs.training.start_model import copy_start_model
from jobs.training.worker import TrainingTask

__all__ = ["main"]


def main() -> int:
    """Runs the attempt that the command line names, and returns the exit status."""
    return drive(_run)


def _run(context: DriverContext) -> Result:
    connect()
    spec = context.folder.read_spec()
    if not isinstance(spec, TrainSpec):
        raise TypeError(f"{context.folder.path}: not a training run")
    task = TrainingTask(
        folder=context.folder.path,
        control=context.folder.path,
        attempt=context.attempt.number,
        cache_dir=context.cache_dir,
        data_dir=context.data_dir,
        start=copy_start_model(context, spec),
    )
    result = fit(task, spec.scaling)
    if context.storage is not None:
        context.storage.take_over()
    compare_with_champion(context, result, spec.scaling)
    return result


if __name__ == "__main__":
    sys.exit(main())
