"""Driver of a hyperparameter search: `python -m jobs.tune --job-dir DIR --attempt N`."""

import sys

from jobs.directory.records import Result
from jobs.driver import DriverContext, connect, drive
from jobs.specs import TuneSpec
from jobs.training.champion_comparison import compare_with_champion
from jobs.tuning.ray_search import search

__all__ = ["main"]


def main() -> int:
    """Runs the attempt that the command line names, and returns the exit status."""
    return drive(_run)


def _run(context: DriverContext) -> Result:
    connect()
    spec = context.folder.read_spec()
    if not isinstance(spec, TuneSpec):
        raise TypeError(f"{context.folder.path}: not a search")
    result = search(context, spec)
    compare_with_champion(context, result, spec.base.scaling)
    return result


if __name__ == "__main__":
    sys.exit(main())
