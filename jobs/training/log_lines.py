"""Log lines of a training run: one for each report and each evaluation, as people and `grep` read them."""

import logging
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jobs.telemetry.log_records import FORMAT_VARIABLE, JOB_VARIABLE, format_named, make_handler

if TYPE_CHECKING:
    from seqae.optimization.progress import Progress

__all__ = ["describe_metrics", "describe_report", "log_to_standard_error"]

_EVALUATION = ("mse", "empty_mse", "fg_ari", "miou", "count_accuracy", "objective")
"""Metrics in the line of an evaluation, without their split and in this order."""


def log_to_standard_error() -> None:
    """Makes the loggers of this package print, in a process that Ray has started and whose output it collects."""
    logger = logging.getLogger("jobs")
    if logger.handlers:
        return  # the process of a trial is used again
    logger.addHandler(make_handler(format_named(os.environ.get(FORMAT_VARIABLE)), os.environ.get(JOB_VARIABLE)))
    logger.setLevel(logging.INFO)
    # Ray's own handler of the root logger would print it once more.
    logger.propagate = False


def describe_report(report: "Progress") -> str:
    """The line of a report during training: how far, how good, how fast, how long still."""
    eta = "-" if report.eta_seconds is None else f"{report.eta_seconds:.0f} s"
    return (
        f"iteration {report.iteration}/{report.iterations}  epoch {report.epoch:.2f}  train/loss {report.loss:.5f}  "
        f"train/mse {report.mse:.5f}  {report.images_per_second:.0f} images/s  ETA {eta}"
    )


def describe_metrics(iteration: int, metrics: Mapping[str, float]) -> str:
    """The line of an evaluation.

    Args:
        iteration: after which it was made.
        metrics: by their names with their split; those that have no value are left out.
    """
    fields = [
        f"{name} {value:.5f}"
        for wanted in _EVALUATION
        for name, value in metrics.items()
        if name.rpartition("/")[2] == wanted and math.isfinite(value)
    ]
    return "  ".join([f"iteration {iteration}", *fields])
