"""Driver of a verification: `python -m jobs.verify --job-dir DIR --attempt N`.

The report is artifacts/verification.json and verification.txt; whether the run was reproduced is the job's metric
`verify/agrees`.
"""

import json
import logging
import sys
import time
from functools import partial

from jobs.directory.files import write_atomically
from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.directory.records import Outcome, Phase, Progress, Result
from jobs.driver import DriverContext, drive
from jobs.errors import NoModel
from jobs.specs import TrainSpec, VerifySpec
from jobs.training.data_record import write_data_record
from jobs.verify.replay import replay
from seqae.data.cache import load_data

__all__ = ["main"]

logger = logging.getLogger(__name__)


def main() -> int:
    """Runs the attempt that the command line names, and returns the exit status."""
    return drive(run)


def run(context: DriverContext) -> Result:
    """Verifies the job that the spec names.

    Args:
        context: of the attempt.

    Raises:
        NoModel: there is no such job here, or it is no training run.
        DataError: nothing was logged that could be compared.
    """
    from seqae.compute.cpu_threads import set_threads

    set_threads(1)
    spec = context.folder.read_spec()
    if not isinstance(spec, VerifySpec):
        raise TypeError(f"{context.folder.path}: not a verification")
    attempt = context.attempt
    _write_progress(attempt, Phase.DATA, 0, 0)
    job = JobFolder(context.folder.path.parent / spec.job)
    if not (job.path / "spec.json").is_file():
        raise NoModel(f"there is no job {spec.job} here")
    verified = job.read_spec()
    if not isinstance(verified, TrainSpec):
        raise NoModel(f"job {spec.job} is no training run")
    report = partial(_write_progress, attempt, Phase.DATA)
    data = load_data(verified.data, verified.model, context.cache_dir, context.data_dir, lambda _, *done: report(*done))
    write_data_record(attempt, data, verified.data)
    found = replay(
        job,
        verified.bare(),
        data,
        start=spec.start,
        reports=spec.reports,
        tolerance=spec.tolerance,
        progress=partial(_write_progress, attempt, Phase.TRAINING),
    )
    logger.info("%s", found.summary)
    write_atomically(attempt.artifacts / "verification.json", json.dumps(found.document(), indent=2) + "\n")
    write_atomically(attempt.artifacts / "verification.txt", f"{spec.job}: {found.summary}\n")
    iterations = [one.iteration for one in found.comparisons]
    metrics = {
        "verify/agrees": float(found.agrees),
        "verify/largest_deviation": min(found.worst.deviation, sys.float_info.max),
        "verify/start": float(found.start),
        "verify/last": float(max(iterations)),
    }
    attempt.add_metrics(max(iterations), metrics)
    _write_progress(attempt, Phase.FINALIZING, 1, 1)
    return Result(outcome=Outcome.SUCCEEDED, metrics=metrics, iterations=max(iterations))


def _write_progress(attempt: AttemptFolder, phase: Phase, done: int, count: int) -> None:
    now = time.time()
    attempt.write_progress(Progress(time=now, last_progress_at=now, phase=phase, iteration=done, iterations=count))


if __name__ == "__main__":
    sys.exit(main())
