"""One trial of a search, in the process that Ray Tune starts for it."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from jobs.backends.loopback import loopback_unproxied
from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome, Result, Want
from jobs.error_classes import classify
from jobs.errors import ErrorClass, FencedError
from jobs.specs import ScalingConfig, SelectionMetric
from jobs.training.ray_fit import fit
from jobs.training.worker import DistributedContext, TrainingTask, train

__all__ = ["Report", "TrialRun", "run_trial"]

logger = logging.getLogger(__name__)

_REPORT_INTERVAL = 1.0

Report = Callable[[dict[str, float]], None]
"""Reports the metrics of an evaluation to the search; `ray.tune.report`."""


@dataclass(frozen=True)
class TrialRun:
    """What the process of a trial needs to know; it can be sent to another process."""

    task: TrainingTask
    scaling: ScalingConfig
    is_over: bool
    """The trial ended in an earlier attempt, and takes part only so that the others are compared with it."""


def run_trial(run: TrialRun, report: Report) -> None:
    """Trains a trial from its newest checkpoint, reports its evaluations to the search, and writes its result.

    Args:
        run: the trial.
        report: gets the metrics of each evaluation, by name and with the epoch; those of earlier attempts come first.

    Raises:
        Exception: an error of the class INFRASTRUCTURE, after which the search starts the trial again.
    """
    os.environ.update(loopback_unproxied(os.environ))
    task, scaling = run.task, run.scaling
    folder = JobFolder(task.folder, control=task.control)
    attempt = folder.attempt(task.attempt)
    reporter = _Reporter(folder, report)
    reporter.report_new()
    if run.is_over or folder.read_control().want is not Want.RUN:
        return
    try:
        if scaling.max_workers == 1:
            device = "cuda" if scaling.gpus_per_worker > 0 else "cpu"
            result = train(task, DistributedContext(device=device), on_evaluation=reporter.report_new)
        else:
            result = _train_on_workers(task, scaling, reporter)
    except FencedError:
        return
    except Exception as error:
        failure = classify(error)
        if failure.error_class is ErrorClass.INFRASTRUCTURE:
            raise
        # The search would try again, and fail again.
        logger.exception("the trial failed")
        result = Result(outcome=Outcome.FAILED, error=failure)
    attempt.write_result(result)


def _train_on_workers(task: TrainingTask, scaling: ScalingConfig, reporter: "_Reporter") -> Result:
    """Trains on workers of the trial's own; only this thread may report."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(fit, task, scaling)
        while not future.done():
            wait([future], timeout=_REPORT_INTERVAL)
            reporter.report_new()
        return future.result()


class _Reporter:
    """Reports evaluations that are in the trial's folder, each once."""

    def __init__(self, folder: JobFolder, report: Report) -> None:
        self._folder = folder
        self._report = report
        self._last_step = -1

    def report_new(self) -> None:
        for row in self._folder.history():
            if row.step > self._last_step and SelectionMetric.MSE.row_name in row.metrics:
                self._last_step = row.step
                scores = {metric.value: row.metrics.get(metric.row_name, 0.0) for metric in SelectionMetric}
                self._report(scores | {"epoch": row.metrics["val/epoch"]})
