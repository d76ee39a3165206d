"""Writer of a training run's heartbeat, metrics and film strips."""

import logging
import math
import time
from collections.abc import Mapping, Sequence

import psutil

from jobs.directory.files import write_atomically
from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.directory.records import Phase, Progress
from jobs.evaluation.film_strips import film_strips
from jobs.supervision.gpus import GpuReading, gpu_row
from jobs.training.log_lines import describe_metrics, describe_report
from seqae.evaluation.evaluate import Evaluation
from seqae.evaluation.names import with_split
from seqae.optimization import progress as reports
from seqae.reconstructor import Reconstructor
from seqae.training import Trainer

__all__ = ["MetricsWriter", "training_row"]

logger = logging.getLogger(__name__)

_MAX_ROWS = 2000
"""About so many rows of training metrics in a run, however long it is."""

_BEAT_INTERVAL = 0.5


class MetricsWriter:
    """Writes progress.json, metrics.jsonl and film strips into one attempt's folder.

    Args:
        folder: of the job or trial.
        attempt: the one that runs.
        workers: how many train.
        device: where they train, as torch names it; a GPU that they don't use is left alone.
    """

    def __init__(self, folder: JobFolder, attempt: AttemptFolder, workers: int, device: str = "cpu") -> None:
        self._folder = folder
        self._attempt = attempt
        self._device = device
        self._progress = Progress(time=time.time(), last_progress_at=time.time(), phase=Phase.DATA, workers=workers)
        # Trials of a search print into one log.
        self._label = f"trial {folder.path.name}  " if folder.path.parent.name == "trials" else ""
        self._written_at = 0.0
        self._epoch: int | None = None
        self._losses: dict[int, tuple[float, float]] | None = None
        """Epoch and loss of each row by its step, those of older attempts too; None before the first is needed."""
        self._write()

    def write_data_progress(self, _: str, done: int, count: int) -> None:
        """Writes how many images have been made or decoded; they count as iterations of the phase DATA.

        Args:
            done: images so far.
            count: images in all.
        """
        self._progress.iteration, self._progress.iterations = done, count
        self._write_now_and_then()

    def write_start(self, trainer: Trainer) -> None:
        """Writes that training starts or goes on; at the start also the film strips of the model before it."""
        self._epoch = int(trainer.epoch)
        self._progress.phase = Phase.TRAINING
        self._progress.iteration, self._progress.iterations = trainer.iteration, trainer.iterations
        self._progress.epoch, self._progress.epochs = trainer.epoch, trainer.config.schedule.epochs
        self._write()
        if trainer.iteration == 0:
            # MLflow's slider stands at 0 when its page opens, and shows no other picture until it is moved.
            self._write_film_strips(trainer)

    def write_progress(self, report: reports.Progress, log_every: int, gpus: Sequence[GpuReading | None] = ()) -> None:
        """Writes a report of the trainer: the heartbeat, and now and then a row of metrics.

        Args:
            report: of one iteration.
            log_every: iterations between two rows, in a run that is not too long for that.
            gpus: what the workers' GPUs say of themselves, by rank.
        """
        stride = max(1, report.iterations // (_MAX_ROWS * log_every)) * log_every
        if report.iteration % stride == 0 or report.iteration == report.iterations:
            self._add_row(report.iteration, training_row(report) | _system_row(self._device) | gpu_row(gpus))
            logger.info("%s%s", self._label, describe_report(report))
        if self._epoch is not None and int(report.epoch) > self._epoch:
            self._close_epoch(self._epoch)
            self._epoch = int(report.epoch)
        self._progress.iteration, self._progress.epoch = report.iteration, report.epoch
        self._progress.loss = report.loss
        self._progress.images_per_second = report.images_per_second
        self._progress.eta_seconds = report.eta_seconds
        self._write_now_and_then()

    def write_evaluation(self, evaluation: Evaluation, trainer: Trainer) -> None:
        """Writes an evaluation: its row, its film strip, and the newest error in the heartbeat."""
        scores = with_split(evaluation.metrics(), "val")
        self._add_row(evaluation.iteration, scores | {"val/epoch": evaluation.epoch})
        logger.info("%s%s", self._label, describe_metrics(evaluation.iteration, scores))
        self._write_film_strips(trainer)
        self._progress.val_mse = evaluation.mse
        self._write()

    def _write_film_strips(self, trainer: Trainer) -> None:
        strips = film_strips(Reconstructor(trainer.model, trainer.config), trainer.data.val)
        write_atomically(self._attempt.frames / f"{trainer.iteration}.png", strips)

    def write_finalizing(self) -> None:
        """Writes that training has ended and the result is made."""
        self._progress.phase, self._progress.eta_seconds = Phase.FINALIZING, 0.0
        self._write()

    def write_test_progress(self, _done: int, _count: int) -> None:
        """Writes that the final evaluation moves on: with many images it takes longer than a stall may last."""
        if time.monotonic() - self._written_at >= _BEAT_INTERVAL:
            self._write()

    def write_test(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Adds the row of the final evaluation.

        Args:
            iteration: of the checkpoint that was evaluated.
            metrics: by their names with `test/` before them.
        """
        self._add_row(iteration, metrics)
        logger.info("%s%s", self._label, describe_metrics(iteration, metrics))

    def _close_epoch(self, epoch: int) -> None:
        """Adds the mean loss of an epoch's rows."""
        # Out of the rows once: a run that resumed has the epoch's first part in an older attempt. A long run's rows
        # take a second to read, so later ones are remembered.
        if self._losses is None:
            self._losses = {
                row.step: (row.metrics["train/epoch"], row.metrics["train/loss"])
                for row in self._folder.history()
                if "train/loss" in row.metrics
            }
        losses = [loss for at, loss in self._losses.values() if epoch < at <= epoch + 1]
        if losses:
            self._add_row(epoch + 1, {"epoch/loss": sum(losses) / len(losses)})
        self._losses = {step: (at, loss) for step, (at, loss) in self._losses.items() if at > epoch + 1}

    def _add_row(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._losses is not None and math.isfinite(metrics.get("train/loss", math.nan)):
            # The first row of a step counts, as in `JobFolder.history`.
            self._losses.setdefault(step, (metrics["train/epoch"], metrics["train/loss"]))
        # An average over no scenes is NaN, which says nothing and which JSON can't hold.
        self._attempt.add_metrics(step, {name: value for name, value in metrics.items() if math.isfinite(value)})

    def _write_now_and_then(self) -> None:
        is_last = self._progress.iteration == self._progress.iterations
        if is_last or time.monotonic() - self._written_at >= _BEAT_INTERVAL:
            self._write()

    def _write(self) -> None:
        self._progress.time = self._progress.last_progress_at = time.time()
        self._attempt.write_progress(self._progress)
        self._written_at = time.monotonic()


def training_row(report: reports.Progress) -> dict[str, float]:
    """A report's numbers by the names of metrics."""
    return {
        "train/loss": report.loss,
        "train/region_loss": report.region,
        "train/mseot": report.mseot,
        "train/mse": report.mse,
        "train/separation": report.separation,
        "train/location": report.location,
        "train/active_writes": report.presence,
        "train/learning_rate": report.learning_rate,
        "train/gradient_norm": report.gradient_norm,
        "train/images_per_second": report.images_per_second,
        "train/epoch": report.epoch,
    }


def _system_row(device: str) -> dict[str, float]:
    """This machine's load, by the names under which MLflow shows system metrics; of GPUs this worker's memory."""
    memory = psutil.virtual_memory()
    row = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 1e6,
        "system/system_memory_usage_percentage": memory.percent,
        "system/process_memory_megabytes": psutil.Process().memory_info().rss / 1e6,
    }
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(device)
        row["system/gpu_0_memory_usage_megabytes"] = (total - free) / 1e6
        row["system/gpu_0_memory_usage_percentage"] = 100 * (total - free) / total
    return row
