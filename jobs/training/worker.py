"""The training itself, as one worker runs it: in a process of Ray Train, or in a trial of a search."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.directory.records import NoteKind, Outcome, Result, Want
from jobs.errors import FencedError
from jobs.specs import SelectionMetric, TrainSpec
from jobs.training.checkpoints import CheckpointManager
from jobs.training.metrics_writer import MetricsWriter
from seqae.checkpoints.manifest import verify
from seqae.data.cache import load_data
from seqae.evaluation.evaluate import Evaluation
from seqae.training import Trainer

__all__ = ["DistributedContext", "TrainingTask", "train"]


@dataclass(frozen=True)
class TrainingTask:
    """What a worker needs to know; it can be sent to another process."""

    folder: Path
    """Of the job, or of the trial."""
    control: Path
    """Folder whose control.json counts: the job's."""
    attempt: int
    cache_dir: Path
    data_dir: Path | None
    metric: SelectionMetric = SelectionMetric.TEST_MSE
    """By which the best checkpoint is chosen."""


@dataclass(frozen=True)
class DistributedContext:
    """Where a worker stands among its peers."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"


_WANTS = tuple(Want)
_FENCED = len(_WANTS)
"""What rank 0 broadcasts at each report: the index of what is wanted, or this."""


def train(task: TrainingTask, place: DistributedContext, on_evaluation: Callable[[], None] | None = None) -> Result:
    """Trains from the newest checkpoint, or from the start, until the end or until told to stop.

    Every rank calls it; a process group must exist when there are several.

    Args:
        task: the run.
        place: of this worker.
        on_evaluation: called on rank 0 after each evaluation, when its metrics and its checkpoint are in the folder.

    Returns:
        How it ended; on rank 0 with the model to register.

    Raises:
        Error, OSError, RuntimeError: see `jobs.error_classes.classify`.
        FencedError: a newer attempt exists; nothing was committed after it appeared.
    """
    folder = JobFolder(task.folder, control=task.control)
    attempt = folder.attempt(task.attempt)
    spec = folder.read_spec()
    if not isinstance(spec, TrainSpec):
        raise TypeError(f"{task.folder}: not a training run")
    torch.set_num_threads(max(1, int(spec.scaling.cpus_per_worker)))
    lead = _Lead(folder, attempt, task, place) if place.rank == 0 else None
    report = lead.recorder.data if lead else None
    data = load_data(spec.data, spec.model, task.cache_dir, task.data_dir, report)
    trainer = Trainer(spec, data, device=place.device, rank=place.rank, world=place.world, wrap=_wrapper(place))
    _resume(trainer, lead, place)
    if lead:
        attempt.add_note(NoteKind.DATA, data.source)
        lead.recorder.start(trainer)
    want, evaluated = Want.RUN, False
    for event in trainer.run():
        if isinstance(event, Evaluation):
            if lead:
                lead.recorder.evaluation(event, trainer)
            evaluated = True
            continue
        want = _agree(lead, place, task.attempt)
        if lead:
            # Rows before the checkpoint: what a resumed run would not repeat must be written already.
            lead.recorder.progress(event, spec.schedule.log_every)
            if event.checkpoint_due or want is Want.PAUSE:
                lead.keeper.save(trainer)
        if want is not Want.RUN:
            break
        if evaluated and on_evaluation is not None:
            on_evaluation()
        evaluated = False
    return lead.result(want, trainer, data.checksum) if lead else Result(outcome=Outcome.SUCCEEDED)


class _Lead:
    """What rank 0 does besides training."""

    def __init__(
        self, folder: JobFolder, attempt: AttemptFolder, task: TrainingTask, place: DistributedContext
    ) -> None:
        self.folder = folder
        self.attempt = attempt
        self.keeper = CheckpointManager(folder, attempt, task.metric)
        self.recorder = MetricsWriter(folder, attempt, place.world)
        self.keeper.check_fence()
        self.keeper.sweep()

    def wanted(self) -> int:
        control = self.folder.read_control()
        return _FENCED if control.fences(self.attempt.number) else _WANTS.index(control.want)

    def result(self, want: Want, trainer: Trainer, checksum: str) -> Result:
        self.recorder.finalizing()
        outcome = want.outcome or Outcome.SUCCEEDED
        chosen = self.keeper.best() if outcome is Outcome.SUCCEEDED else self.keeper.newest()
        return Result(
            outcome=outcome,
            metrics=verify(chosen).metrics if chosen else {},
            checkpoint=str(chosen.relative_to(self.folder.path)) if chosen else None,
            iterations=trainer.iteration,
            evaluation_set=checksum,
        )


def _wrapper(place: DistributedContext) -> Callable[[nn.Module], nn.Module]:
    if place.world == 1:
        return lambda module: module
    devices = [place.device] if place.device.startswith("cuda") else None
    return lambda module: nn.parallel.DistributedDataParallel(module, device_ids=devices)


def _resume(trainer: Trainer, lead: _Lead | None, place: DistributedContext) -> None:
    """Loads the newest whole checkpoint, the same on every rank."""
    chosen: list[Path | None] = [lead.keeper.newest() if lead else None]
    if place.world > 1:
        dist.broadcast_object_list(chosen, src=0, device=torch.device(place.device))
    path = chosen[0]
    if path is None:
        return
    trainer.load(path)
    if lead:
        lead.attempt.add_note(NoteKind.RESUMED, f"from iteration {trainer.iteration} of {trainer.iterations}")


def _agree(lead: _Lead | None, place: DistributedContext, attempt: int) -> Want:
    """What is wanted, as rank 0 reads it and the others hear of it, so that all stop at the same iteration.

    Raises:
        FencedError: a newer attempt exists.
    """
    code = lead.wanted() if lead else 0
    if place.world > 1:
        shared = torch.tensor(code, device=place.device)
        dist.broadcast(shared, src=0)
        code = int(shared)
    if code == _FENCED:
        raise FencedError(f"attempt {attempt} stops: a newer one exists")
    return _WANTS[code]
