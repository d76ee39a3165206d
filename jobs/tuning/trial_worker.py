"""One trial of a search, in the process that Ray Tune starts for it."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from jobs.backends.loopback import loopback_unproxied
from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome, Result, Want
from jobs.error_classes import classify
from jobs.errors import FencedError, FolderError
from jobs.search.settings import SECONDS_PER_IMAGE
from jobs.specs import ScalingConfig
from jobs.storage.worker_storage import WorkerStorage
from jobs.training.ray_fit import fit
from jobs.training.worker import DistributedContext, TrainingTask, train
from jobs.tuning.trials import evaluations, seed_folder

__all__ = ["Report", "TrialRun", "run_trial"]

logger = logging.getLogger(__name__)

_REPORT_INTERVAL = 1.0

Report = Callable[[dict[str, float]], None]
"""Reports the metrics of an evaluation to the search; `ray.tune.report`."""


@dataclass(frozen=True)
class TrialRun:
    """What the process of a trial needs to know; it can be sent to another process."""

    task: TrainingTask
    """Of the trial's first seed."""
    scaling: ScalingConfig
    """Of each training run."""
    seeds: int = 1
    """Training runs of the trial, one after another."""


def run_trial(run: TrialRun, report: Report) -> None:
    """Trains a trial from its newest checkpoint, reports its evaluations to the search, and writes its results.

    Args:
        run: the trial.
        report: gets the metrics of each evaluation, by name and with the epoch and the number of the seed; those of
            earlier attempts come first.

    Raises:
        FolderError: the driver's folder is on another machine.
        Exception: an error of the class INFRASTRUCTURE or PREEMPTED, after which the search starts the trial again.
    """
    os.environ.update(loopback_unproxied(os.environ))
    storage = WorkerStorage.of_environment(run.task.control, run.task.attempt)
    if storage is not None and not storage.is_at_driver:
        raise FolderError(f"{run.task.folder}: a search's trials need the machine of its driver")
    first, search = JobFolder(run.task.folder, control=run.task.control), JobFolder(run.task.control)
    for number in range(run.seeds):
        folder = seed_folder(first, search, number)
        if not _run_seed(replace(run.task, folder=folder.path), run.scaling, folder, _Reporter(folder, report, number)):
            return


def _run_seed(task: TrainingTask, scaling: ScalingConfig, folder: JobFolder, reporter: "_Reporter") -> bool:
    """Trains with one seed; whether it has come to its end, so that the next seed's turn is come."""
    reporter.report_new()
    if any((end := one.read_result()) and end.outcome is Outcome.SUCCEEDED for one in folder.attempts()):
        return True
    if folder.read_control().want is not Want.RUN:
        return False
    attempt = folder.attempt(task.attempt)
    try:
        if scaling.max_workers == 1:
            device = "cuda" if scaling.gpus_per_worker > 0 else "cpu"
            result = train(task, DistributedContext(device=device), on_evaluation=reporter.report_new)
        else:
            result = _train_on_workers(task, scaling, reporter)
    except FencedError:
        return False
    except Exception as error:
        failure = classify(error)
        if not failure.error_class.is_users:
            raise
        # The search would try again, and fail again.
        logger.exception("the trial failed")
        result = Result(outcome=Outcome.FAILED, error=failure)
    attempt.write_result(result)
    return result.outcome is Outcome.SUCCEEDED


def _train_on_workers(task: TrainingTask, scaling: ScalingConfig, reporter: "_Reporter") -> Result:
    """Trains on workers of the trial's own; only this thread may report."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(fit, task, scaling)
        while not future.done():
            wait([future], timeout=_REPORT_INTERVAL)
            reporter.report_new()
        return future.result()


class _Reporter:
    """Reports evaluations that are in a training run's folder, each once."""

    def __init__(self, folder: JobFolder, report: Report, seed: int) -> None:
        self._folder = folder
        self._report = report
        self._seed = seed
        self._last_epoch = -1.0

    def report_new(self) -> None:
        for epoch, metrics in evaluations(self._folder).items():
            if epoch > self._last_epoch:
                self._last_epoch = epoch
                scores = {name: value for name, value in metrics.items() if name.startswith("val/")}
                speed = {SECONDS_PER_IMAGE: metrics[SECONDS_PER_IMAGE]} if SECONDS_PER_IMAGE in metrics else {}
                self._report({**scores, **speed, "epoch": epoch, "seed": float(self._seed)})
