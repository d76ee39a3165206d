"""One trial of a search, as the process that Tune starts for it runs it."""

import logging
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome, Result, Want, metric_name
from jobs.error_classes import classify
from jobs.errors import ErrorClass, FencedError
from jobs.specs import ScalingConfig, SelectionMetric
from jobs.train import fit
from jobs.training.worker import DistributedContext, TrainingTask, train

__all__ = ["run_trial"]

logger = logging.getLogger(__name__)

_LOOK_EVERY = 1.0


def run_trial(config: dict[str, Any]) -> None:
    """What Tune calls for each trial.

    Args:
        config: `task` (TrainingTask), `scaling` (ScalingConfig), and `over`: the trial ended in an earlier
            attempt, and is here only so that the others are compared with it.
    """
    task: TrainingTask = config["task"]
    scaling: ScalingConfig = config["scaling"]
    folder = JobFolder(task.folder, control=task.control)
    attempt = folder.attempt(task.attempt)
    report = _Reporter(folder)
    report()
    if config["over"] or folder.read_control().want is not Want.RUN:
        return
    try:
        if scaling.max_workers == 1:
            device = "cuda" if scaling.gpus_per_worker > 0 else "cpu"
            result = train(task, DistributedContext(device=device), on_evaluation=report)
        else:
            result = _train_on_workers(task, scaling, report)
    except FencedError:
        return
    except Exception as error:
        failure = classify(error)
        if failure.error_class is ErrorClass.INFRASTRUCTURE:
            raise
        # Tune would try again, and fail again.
        logger.exception("the trial failed")
        result = Result(outcome=Outcome.FAILED, error=failure)
    attempt.write_result(result)


def _train_on_workers(task: TrainingTask, scaling: ScalingConfig, report: "_Reporter") -> Result:
    """Trains on workers of the trial's own; only this thread may report to Tune."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(fit, task, scaling)
        while not future.done():
            wait([future], timeout=_LOOK_EVERY)
            report()
        return future.result()


class _Reporter:
    """Tells Tune of evaluations that are in the trial's folder and that it was not told of yet."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder
        self._step = -1

    def __call__(self) -> None:
        from ray import tune

        for row in self._folder.history():
            if row.step > self._step and metric_name(SelectionMetric.TEST_MSE) in row.metrics:
                self._step = row.step
                scores = {metric.value: row.metrics.get(metric_name(metric), 0.0) for metric in SelectionMetric}
                tune.report(scores | {"epoch": row.metrics["test/epoch"]})
