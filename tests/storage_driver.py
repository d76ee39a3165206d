"""Driver of a training run in one process, without a cluster: `python -m tests.storage_driver --job-dir D --attempt N`.

SEQAE_TEST_PAUSE: seconds of rest after each evaluation, so that a test can catch it between two of them.
"""

import os
import sys
import time

from jobs.directory.records import Result
from jobs.driver import DriverContext, drive
from jobs.training.worker import DistributedContext, TrainingTask, train

__all__ = ["main"]


def main() -> int:
    """Runs the attempt that the arguments name."""
    return drive(_work)


def _work(context: DriverContext) -> Result:
    folder = context.folder.path
    task = TrainingTask(folder, folder, context.attempt.number, context.cache_dir, context.data_dir)
    return train(task, DistributedContext(), lambda: time.sleep(float(os.environ.get("SEQAE_TEST_PAUSE", "0"))))


if __name__ == "__main__":
    sys.exit(main())
