"""Training loop of one worker: in a process of Ray Train, or in the process of a trial."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from jobs.directory.layout import JobFolder
from jobs.directory.records import NoteKind, Outcome, Result, Want
from jobs.errors import FencedError
from jobs.specs import SelectionMetric, TrainSpec, model_name
from jobs.training.checkpoints import CheckpointManager
from jobs.training.data_record import write_data_record
from jobs.training.final_test import evaluate_on_test, write_report
from jobs.training.metrics_writer import MetricsWriter
from seqae.checkpoints.manifest import verify
from seqae.compute.cpu_threads import set_threads
from seqae.data.cache import load_data
from seqae.evaluation.evaluate import Evaluation
from seqae.evaluation.names import modern, with_split
from seqae.training import Progress, Trainer

__all__ = ["DistributedContext", "TrainingTask", "train"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingTask:
    """Folders and attempt of a training run, as they are sent to the processes of its workers."""

    folder: Path
    """Of the job, or of the trial."""
    control: Path
    """Folder whose control.json counts: the job's."""
    attempt: int
    """Number of the attempt that runs."""
    cache_dir: Path
    """Built data sets, shared by all jobs."""
    data_dir: Path | None
    """The user's own data."""
    metric: SelectionMetric = SelectionMetric.OBJECTIVE
    """By which the best checkpoint is chosen."""
    tests: bool = True
    """Whether the best checkpoint is evaluated on the test images at the end; of a search only the winner is."""
    other_settings: bool = False
    """Whether it may go on from a model that was trained with other loss weights and another learning rate."""
    start: Path | None = None
    """Checkpoint whose weights it starts from while it has none of its own; it must not change. None: from the seed."""


@dataclass(frozen=True)
class DistributedContext:
    """Rank and device of a worker in a distributed run; the defaults are those of a run with one worker."""

    rank: int = 0
    """From 0; rank 0 writes all files."""
    world: int = 1
    """How many workers train together."""
    device: str = "cpu"
    """As torch names it."""


_WANTS = tuple(Want)
_FENCED = len(_WANTS)
"""What rank 0 broadcasts at each report: the index of what is wanted, or this."""


def train(
    task: TrainingTask, distributed: DistributedContext, on_evaluation: Callable[[], None] | None = None
) -> Result:
    """Trains from the newest checkpoint, or from the start, until the end or until control.json asks to stop.

    Every rank calls it; a process group must exist when there are several.

    Args:
        task: the run.
        distributed: rank and device of this worker.
        on_evaluation: called on rank 0 after each evaluation, when its metrics and its checkpoint are in the folder.

    Returns:
        How it ended. On rank 0 with a checkpoint: the best of a run that came to its end, which is the model to
        register; the newest of one that was stopped.

    Raises:
        Error, OSError, RuntimeError: see `jobs.error_classes.classify`.
        FencedError: a newer attempt exists; nothing was committed after it appeared.
    """
    folder = JobFolder(task.folder, control=task.control)
    spec = folder.read_spec()
    if not isinstance(spec, TrainSpec):
        raise TypeError(f"{task.folder}: not a training run")
    set_threads(max(1, int(spec.scaling.cpus_per_worker)))
    rank_zero = _RankZero(folder, spec, task, distributed) if distributed.rank == 0 else None
    report = rank_zero.metrics_writer.write_data_progress if rank_zero else None
    data = load_data(spec.data, spec.model, task.cache_dir, task.data_dir, report)
    wrap = _data_parallel(distributed)
    trainer = Trainer(spec, data, device=distributed.device, rank=distributed.rank, world=distributed.world, wrap=wrap)
    _resume(trainer, rank_zero, distributed, task)
    if rank_zero:
        write_data_record(rank_zero.attempt, data, spec.data)
        rank_zero.metrics_writer.write_start(trainer)
    variant = trainer.choose_variant()
    if rank_zero:
        logger.info("computes in %s", variant)
    want, evaluated = Want.RUN, False
    for event in trainer.run():
        if isinstance(event, Evaluation):
            if rank_zero:
                rank_zero.metrics_writer.write_evaluation(event, trainer)
            evaluated = True
            continue
        want = _agreed_want(rank_zero, distributed, task.attempt)
        if rank_zero:
            rank_zero.write(event, trainer, want)
        if want is not Want.RUN:
            break
        if evaluated and on_evaluation is not None:
            on_evaluation()
        evaluated = False
    return rank_zero.result(want, trainer) if rank_zero else Result(outcome=Outcome.SUCCEEDED)


class _RankZero:
    """The files of the run, which rank 0 alone writes: checkpoints, metrics, progress."""

    def __init__(self, folder: JobFolder, spec: TrainSpec, task: TrainingTask, distributed: DistributedContext) -> None:
        self.folder = folder
        self.attempt = folder.attempt(task.attempt)
        self.checkpoints = CheckpointManager(folder, self.attempt, task.metric)
        self.metrics_writer = MetricsWriter(folder, self.attempt, distributed.world, distributed.device)
        self._device = distributed.device
        self._tests = task.tests
        self._model_name = model_name(spec)
        self.checkpoints.check_fence()
        self.checkpoints.remove_unfinished()

    def control_code(self) -> int:
        """What control.json asks for, as a number that can be broadcast."""
        control = self.folder.read_control()
        return _FENCED if control.fences(self.attempt.number) else _WANTS.index(control.want)

    def write(self, report: Progress, trainer: Trainer, want: Want) -> None:
        """Writes a report of the trainer, and a checkpoint when one is due or a pause is wanted."""
        # Rows before the checkpoint: what a resumed run would not repeat must be written already.
        self.metrics_writer.write_progress(report, trainer.config.schedule.log_every)
        if report.checkpoint_due or want is Want.PAUSE:
            self.checkpoints.save(trainer)

    def result(self, want: Want, trainer: Trainer) -> Result:
        """How the run ended, after the final evaluation of one that came to its end."""
        self.metrics_writer.write_finalizing()
        outcome = want.outcome or Outcome.SUCCEEDED
        # A run of an older release may have no checkpoint that was evaluated on `val`.
        best = self.checkpoints.best() if outcome is Outcome.SUCCEEDED else None
        checkpoint = best or self.checkpoints.newest()
        metrics = modern(verify(checkpoint).metrics) if checkpoint else {}
        if checkpoint and self._tests and outcome is Outcome.SUCCEEDED:
            progress = self.metrics_writer.write_test_progress
            final = evaluate_on_test(checkpoint, trainer.data, device=self._device, progress=progress)
            scores = with_split(final.metrics(), "test")
            self.metrics_writer.write_test(final.iteration, scores)
            write_report(self.attempt, self._model_name, trainer.data, final)
            metrics |= scores
        return Result(
            outcome=outcome,
            metrics=metrics,
            checkpoint=str(checkpoint.relative_to(self.folder.path)) if checkpoint else None,
            iterations=trainer.iteration,
            evaluation_set=trainer.data.test_checksum,
        )


def _data_parallel(distributed: DistributedContext) -> Callable[[nn.Module], nn.Module]:
    """What wraps the model so that gradients are averaged over all workers."""
    if distributed.world == 1:
        return lambda module: module
    devices = [distributed.device] if distributed.device.startswith("cuda") else None
    return lambda module: nn.parallel.DistributedDataParallel(module, device_ids=devices)


def _resume(trainer: Trainer, rank_zero: _RankZero | None, distributed: DistributedContext, task: TrainingTask) -> None:
    """Loads the newest whole checkpoint, or else the weights to start from, the same on every rank."""
    chosen: list[Path | None] = [rank_zero.checkpoints.newest() if rank_zero else None]
    if distributed.world > 1:
        dist.broadcast_object_list(chosen, src=0, device=torch.device(distributed.device))
    path = chosen[0]
    if path is None:
        if task.start is not None:
            trainer.start_from(task.start)
        return
    trainer.load(path, other_settings=task.other_settings)
    if rank_zero:
        rank_zero.attempt.add_note(NoteKind.RESUMED, f"from iteration {trainer.iteration} of {trainer.iterations}")


def _agreed_want(rank_zero: _RankZero | None, distributed: DistributedContext, attempt: int) -> Want:
    """What is wanted, as rank 0 reads it and broadcasts it, so that all stop at the same iteration.

    Raises:
        FencedError: a newer attempt exists.
    """
    code = rank_zero.control_code() if rank_zero else 0
    if distributed.world > 1:
        shared = torch.tensor(code, device=distributed.device)
        dist.broadcast(shared, src=0)
        code = int(shared)
    if code == _FENCED:
        raise FencedError(f"attempt {attempt} stops: a newer one exists")
    return _WANTS[code]
