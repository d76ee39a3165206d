"""Training loop of one worker: in a process of Ray Train, or in the process of a trial."""

import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from jobs.directory.layout import JobFolder
from jobs.directory.records import NoteKind, Outcome, Result, Want
from jobs.errors import FencedError, PreemptedError
from jobs.specs import SelectionMetric, TrainSpec, model_name
from jobs.storage.data_sets import load_data
from jobs.supervision.divergence import MOST_HALVINGS, last_step_before_rise
from jobs.supervision.gpus import GpuReading, GpuSensor, GpuWatch, find_sensor, pack, unpack
from jobs.supervision.notice import Notice, NoticeSource, watch_notices
from jobs.supervision.worker_loads import LoadWatch
from jobs.training.checkpoints import CheckpointManager
from jobs.training.data_record import write_data_record
from jobs.training.final_test import evaluate_on_test, write_report
from jobs.training.metrics_writer import MetricsWriter
from seqae.checkpoints.manifest import verify
from seqae.compute.cpu_threads import set_threads
from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.errors import DivergedError
from seqae.evaluation.evaluate import Evaluation
from seqae.evaluation.names import modern, with_split
from seqae.optimization.progress import Progress
from seqae.training import Trainer

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
    heals_divergence: bool = True
    """Whether a run that has diverged goes on with half the learning rate; a trial of a search must train with its."""
    pieces: int = 1
    """In so many each worker computes its share of a batch; more where memory runs out."""
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
    task: TrainingTask,
    distributed: DistributedContext,
    on_evaluation: Callable[[], None] | None = None,
    fetch: Callable[[Path], None] = lambda _: None,
    notices: Sequence[NoticeSource] = (),
) -> Result:
    """Trains from the newest checkpoint, or from the start, until the end or until control.json asks to stop.

    Every rank calls it; a process group must exist when there are several.

    Args:
        task: the run.
        distributed: rank and device of this worker.
        on_evaluation: called on rank 0 after each evaluation, when its metrics and its checkpoint are in the folder.
        fetch: brings a checkpoint or a file that rank 0 or the driver has to this worker's machine, by its path.
        notices: sources of the notice that this worker must go; then all stop with a checkpoint.

    Returns:
        How it ended. On rank 0 with a checkpoint: the best of a run that came to its end, which is the model to
        register; the newest of one that was stopped.

    Raises:
        Error, OSError, RuntimeError: see `jobs.error_classes.classify`.
        FencedError: a newer attempt exists; nothing was committed after it appeared.
        PreemptedError: a worker must go; the checkpoint of the last iteration is written.
    """
    folder = JobFolder(task.folder, control=task.control)
    spec = folder.read_spec()
    if not isinstance(spec, TrainSpec):
        raise TypeError(f"{task.folder}: not a training run")
    set_threads(max(1, int(spec.scaling.cpus_per_worker)))
    rank_zero = _RankZero(folder, spec, task, distributed) if distributed.rank == 0 else None
    report = rank_zero.metrics_writer.write_data_progress if rank_zero else None
    data = load_data(spec.data, spec.model, task.cache_dir, task.data_dir, report)
    trainer = _make_trainer(spec, data, distributed, task)
    _load_shared(trainer, rank_zero.checkpoints.newest() if rank_zero else None, distributed, task, fetch)
    nodes = _gathered(distributed, socket.gethostname())
    if rank_zero:
        rank_zero.start(trainer, nodes, task.pieces)
    variant = trainer.choose_variant()
    if rank_zero:
        logger.info("computes in %s", variant)
    while True:
        try:
            want = _follow(trainer, rank_zero, distributed, task, on_evaluation, notices)
        except DivergedError as error:
            trainer = _go_back(error, trainer, rank_zero, distributed, task, fetch)
        else:
            return rank_zero.result(want, trainer) if rank_zero else Result(outcome=Outcome.SUCCEEDED)


def _follow(
    trainer: Trainer,
    rank_zero: "_RankZero | None",
    distributed: DistributedContext,
    task: TrainingTask,
    on_evaluation: Callable[[], None] | None,
    notices: Sequence[NoticeSource],
) -> Want:
    """Runs a trainer to its end, or until it is to stop; what was wanted then."""
    notice = Notice()
    sensor = find_sensor(distributed.device, _uuid_of)
    watch = watch_notices(notices, trainer.request_stop, notice)
    watch.start()
    try:
        evaluated = False
        for event in trainer.run():
            if isinstance(event, Evaluation):
                if rank_zero:
                    rank_zero.metrics_writer.write_evaluation(event, trainer)
                evaluated = True
                continue
            want = _agreed_want(rank_zero, distributed, task.attempt)
            gpus = _gathered_readings(sensor, distributed)
            if rank_zero:
                rank_zero.write(event, trainer, want, gpus)
            if want is not Want.RUN:
                return want
            if evaluated and on_evaluation is not None:
                on_evaluation()
            evaluated = False
            if event.stopping and event.iteration < event.iterations:
                # All wait here for the checkpoint: the first one that raises takes the others with it.
                reasons = [reason for reason in _gathered(distributed, notice.reason or "") if reason]
                raise PreemptedError(f"left at iteration {event.iteration} with a checkpoint: {'; '.join(reasons)}")
        return Want.RUN
    finally:
        watch.request_stop()


def _go_back(
    error: DivergedError,
    trainer: Trainer,
    rank_zero: "_RankZero | None",
    distributed: DistributedContext,
    task: TrainingTask,
    fetch: Callable[[Path], None],
) -> Trainer:
    """Makes a diverged run go on from before the rise of its loss, with half the learning rate.

    Raises:
        DivergedError: that was done as often as it may be.
    """
    halvings = trainer.halvings + 1
    if not task.heals_divergence:
        raise error
    if halvings > MOST_HALVINGS:
        what = f"{error}, though it went back and halved the learning rate {MOST_HALVINGS} times"
        raise DivergedError(what) from error
    healed = _make_trainer(trainer.config, trainer.data, distributed, task)
    _load_shared(healed, rank_zero.before_rise() if rank_zero else None, distributed, task, fetch)
    while healed.halvings < halvings:
        healed.halve_learning_rate()
    if rank_zero:
        rank_zero.write_diverged(error, healed)
    return healed


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
        self._spec = spec
        self._loads, self._gpus = LoadWatch([]), GpuWatch([])
        self.checkpoints.check_fence()
        self.checkpoints.remove_unfinished()

    def start(self, trainer: Trainer, nodes: Sequence[str], pieces: int) -> None:
        """Writes that training starts or goes on.

        Args:
            trainer: of this attempt; it may have loaded a checkpoint.
            nodes: the workers' machines, by rank.
            pieces: in how many each computes its share of a batch.
        """
        if trainer.iteration > 0:
            text = f"from iteration {trainer.iteration} of {trainer.iterations}"
            self.attempt.add_note(NoteKind.RESUMED, text)
        self._loads, self._gpus = LoadWatch(nodes, pieces), GpuWatch(nodes)
        write_data_record(self.attempt, trainer.data, self._spec.data)
        self.metrics_writer.write_start(trainer)

    def control_code(self) -> int:
        """What control.json asks for, as a number that can be broadcast."""
        control = self.folder.read_control()
        return _FENCED if control.fences(self.attempt.number) else _WANTS.index(control.want)

    def write(self, report: Progress, trainer: Trainer, want: Want, gpus: Sequence[GpuReading | None]) -> None:
        """Writes a report of the trainer, and a checkpoint when one is due, a pause is wanted, or a worker must go."""
        # Rows before the checkpoint: what a resumed run would not repeat must be written already.
        self.metrics_writer.write_progress(report, trainer.config.schedule.log_every, gpus)
        for remark in [*self._loads.look(report.workers), *self._gpus.look(gpus)]:
            logger.warning("%s", remark.text)
            self.attempt.add_note(remark.kind, remark.text)
        if report.checkpoint_due or report.stopping or want is Want.PAUSE:
            self.checkpoints.save(trainer)

    def before_rise(self) -> Path | None:
        """The checkpoint from before the rise of the loss, to which a diverged run goes back; None: its start."""
        return self.checkpoints.go_back(last_step_before_rise(self.folder.history()))

    def write_diverged(self, error: DivergedError, trainer: Trainer) -> None:
        """Writes that a run has diverged and goes on; and a checkpoint, which remembers the learning rate."""
        where = f"goes on from iteration {trainer.iteration} with half the learning rate"
        text = f"{error}: {where}, {trainer.halvings} of at most {MOST_HALVINGS} times"
        logger.warning("%s", text)
        self.attempt.add_note(NoteKind.DIVERGED, text)
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


def _make_trainer(config: TrainConfig, data: Dataset, distributed: DistributedContext, task: TrainingTask) -> Trainer:
    return Trainer(
        config,
        data,
        device=distributed.device,
        rank=distributed.rank,
        world=distributed.world,
        all_reduce=dist.all_reduce if distributed.world > 1 else None,
        pieces=task.pieces,
    )


def _load_shared(
    trainer: Trainer,
    path: Path | None,
    distributed: DistributedContext,
    task: TrainingTask,
    fetch: Callable[[Path], None],
) -> None:
    """Loads the checkpoint that rank 0 names, or else the weights to start from, and makes them the same everywhere."""
    chosen = [path]
    if distributed.world > 1:
        dist.broadcast_object_list(chosen, src=0, device=torch.device(distributed.device))
    if chosen[0] is not None:
        fetch(chosen[0])
        trainer.load(chosen[0], other_settings=task.other_settings)
    elif task.start is not None:
        # Written after the weights.
        fetch(task.start.with_name("start.json"))
        trainer.start_from(task.start)
    if distributed.world > 1:
        # Drawn from one seed, they differ by a rounding where the processors do.
        for tensor in trainer.model.state_dict().values():
            dist.broadcast(tensor, src=0)


def _gathered(distributed: DistributedContext, text: str) -> list[str]:
    """What each rank says, by rank; all wait for the last."""
    found = [text] * distributed.world
    if distributed.world > 1:
        dist.all_gather_object(found, text)
    return found


def _uuid_of(device: str) -> str:
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _gathered_readings(sensor: GpuSensor | None, distributed: DistributedContext) -> list[GpuReading | None]:
    """What the workers' GPUs say of themselves, by rank; empty where they train on CPUs."""
    if not distributed.device.startswith("cuda"):
        return []
    table = torch.zeros(distributed.world, 6, dtype=torch.float64, device=distributed.device)
    table[distributed.rank] = torch.tensor(pack(sensor.read() if sensor else None), dtype=torch.float64)
    if distributed.world > 1:
        dist.all_reduce(table)
    return [unpack(row) for row in table.tolist()]


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
