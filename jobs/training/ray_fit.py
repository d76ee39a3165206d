"""Training on workers of a Ray cluster, with Ray Train: start, restart of lost workers, and the error that counts."""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jobs.backends.loopback import loopback_unproxied
from jobs.directory.layout import JobFolder
from jobs.directory.placements import Placement, write_placement
from jobs.directory.records import NoteKind, Result
from jobs.error_classes import classify, out_of_memory_kills
from jobs.errors import ErrorClass, FencedError, FolderError, OutOfMemoryError, WorkersLostError
from jobs.specs import ScalingConfig, WorkerRange
from jobs.storage.worker_storage import WorkerStorage
from jobs.supervision.notice import NoticeSource, drain_notice, install_sigterm_handler, sigterm_notice
from jobs.telemetry.log_records import current_traceparent
from jobs.telemetry.tracing import Tracing, tracing_of_job
from jobs.training.log_lines import log_to_standard_error
from jobs.training.worker import DistributedContext, TrainingTask, train
from seqae.errors import Error

if TYPE_CHECKING:
    from ray.train.torch import TorchConfig

__all__ = ["fit", "run_worker", "train_traced"]

logger = logging.getLogger(__name__)

_LAST_SECONDS = 30.0
"""So long a storage is asked to take what a worker has written that fails, or whose machine is taken away."""

_MAX_RESTARTS = 3
"""So often the workers are started again without a new checkpoint in between."""

_MAX_PIECES = 8
"""A share of a batch is cut into so many pieces at most for want of main memory."""


def fit(task: TrainingTask, scaling: ScalingConfig) -> Result:
    """Trains on workers of the cluster, and starts them again when one is lost.

    Ray Train could restart them itself, but counts a user's error like a lost worker; here only the latter is retried.

    Args:
        task: the run.
        scaling: how many workers, and what each of them gets.

    Returns:
        The result of rank 0.

    Raises:
        Error: as `jobs.training.worker.train`.
        WorkersLostError: workers were lost too often.
        OutOfMemoryError: a worker was killed because the machine ran out of memory.
        PreemptedError: a worker was told that its machine is about to be taken away.
    """
    attempt = JobFolder(task.folder, control=task.control).attempt(task.attempt)
    restarts = 0
    while True:
        steps, kills = attempt.checkpoint_steps(), out_of_memory_kills()
        try:
            return _fit_once(task, scaling)
        except WorkersLostError as error:
            if out_of_memory_kills() > kills:
                if task.pieces >= _MAX_PIECES:
                    raise OutOfMemoryError(f"the machine ran out of memory: {error}") from error
                # The kernel tells no worker beforehand, so that none could have cut its share by itself.
                task = replace(task, pieces=2 * task.pieces)
                text = f"the machine ran out of memory: each worker computes its share in {task.pieces} pieces"
                attempt.add_note(NoteKind.OUT_OF_MEMORY, text)
            restarts = 0 if attempt.checkpoint_steps() != steps else restarts + 1
            logger.warning("%s", error)
            if restarts > _MAX_RESTARTS:
                raise
            attempt.add_note(NoteKind.WORKERS_LOST, str(error)[:1000])


def _fit_once(task: TrainingTask, scaling: ScalingConfig) -> Result:
    from ray import train as ray_train
    from ray.train.torch import TorchTrainer

    storage = task.folder / "attempts" / str(task.attempt) / "train"
    workers = scaling.workers
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config={
            "task": task,
            "gpus": scaling.gpus_per_worker,
            "traceparent": current_traceparent.get(),
        },
        scaling_config=ray_train.ScalingConfig(
            num_workers=(workers.min, workers.max) if isinstance(workers, WorkerRange) else workers,
            use_gpu=scaling.gpus_per_worker > 0,
            resources_per_worker={"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker},
        ),
        torch_config=_process_group("nccl" if scaling.gpus_per_worker > 0 else "gloo"),
        run_config=ray_train.RunConfig(
            # A name that was used before would be taken up where it ended, which is not where our checkpoints are.
            name=f"workers-{len(list(storage.glob('*')))}-{os.getpid()}",
            storage_path=str(storage),
            failure_config=ray_train.FailureConfig(max_failures=0),
        ),
    )
    try:
        result = trainer.fit()
    except ray_train.TrainingFailedError as error:
        raise _cause_of(error) from error
    if not isinstance(result.return_value, Result):
        raise WorkersLostError("the workers ended without a result")
    return result.return_value


def _process_group(backend: str) -> "TorchConfig":
    """Ray's set-up of torch's process group, which also makes SIGTERM a notice in each worker.

    A handler of signals can be set in a process's main thread only. The training function has a thread of its own; what
    a backend executes on its workers runs in the main one.
    """
    from ray.train.torch import TorchConfig

    usual = TorchConfig().backend_cls

    class Backend(usual):  # type: ignore[valid-type, misc]  # Ray names the class only by the property
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            super().on_start(worker_group, backend_config)
            worker_group.execute(install_sigterm_handler)

    class Config(TorchConfig):  # type: ignore[misc]  # to mypy it is Any
        @property
        def backend_cls(self) -> type:
            return Backend

    return Config(backend=backend)


def _train_on_worker(config: dict[str, Any]) -> Result:
    """What Ray Train calls in each worker."""
    from ray import train as ray_train
    from ray.train.torch import get_device

    log_to_standard_error()
    os.environ.update(loopback_unproxied(os.environ))
    context = ray_train.get_context()
    device = str(get_device()) if config["gpus"] > 0 else "cpu"
    _write_placement(config["task"], context.get_world_rank())
    distributed = DistributedContext(context.get_world_rank(), context.get_world_size(), device)
    return train_traced(config["task"], distributed, config["traceparent"], (sigterm_notice, drain_notice))


def train_traced(
    task: TrainingTask, workers: DistributedContext, traceparent: str | None, notices: Sequence[NoticeSource] = ()
) -> Result:
    """Trains as a worker, with a span around it.

    Args:
        task: the run.
        workers: which one of how many this is.
        traceparent: the driver's span; None: it makes none, and neither does this.
        notices: sources of the notice that this worker must go.
    """
    tracing = Tracing() if traceparent is None else tracing_of_job("worker")
    attributes = {"seqae.attempt": task.attempt, "seqae.rank": workers.rank, "seqae.workers": workers.world}
    try:
        with tracing.span("training", attributes, parent=traceparent):
            return run_worker(task, workers, notices)
    finally:
        tracing.stop()


def run_worker(task: TrainingTask, distributed: DistributedContext, notices: Sequence[NoticeSource] = ()) -> Result:
    """Trains in this process; where the driver is on another machine, with the storage between the two.

    Args:
        task: the run.
        distributed: rank and device of this worker.
        notices: sources of the notice that this worker must go.

    Returns:
        As `jobs.training.worker.train`.

    Raises:
        Error: as there.
        FolderError: it is a search's trial, and the driver is on another machine.
        StorageUnavailable, StorageRefused: what rank 0 has written is not in the storage.
    """
    storage = WorkerStorage.of_environment(task.control, task.attempt)
    if storage is None:
        return train(task, distributed, notices=notices)
    if storage.is_at_driver:
        if distributed.rank == 0:
            storage.claim_writing()
        return train(task, distributed, fetch=storage.fetch, notices=notices)
    if task.folder != task.control:
        raise FolderError(f"{task.folder}: a search's trials need the machine of its driver")
    storage.begin(writes=distributed.rank == 0)
    if distributed.rank != 0:
        return train(task, distributed, fetch=storage.fetch, notices=notices)
    try:
        result = train(task, distributed, fetch=storage.fetch, notices=notices)
    except Exception:
        with suppress(Error):  # what went wrong first counts
            storage.finish(_LAST_SECONDS)
        raise
    storage.finish()
    return result


def _write_placement(task: TrainingTask, rank: int) -> None:
    """Writes down which process of the cluster this rank is; without it training goes on, and is only not shown."""
    import ray

    process = ray.get_runtime_context()
    placement = Placement(rank=rank, process_id=process.get_actor_id() or "", node_id=process.get_node_id())
    try:
        write_placement(JobFolder(task.folder).attempt(task.attempt), placement)
    except OSError as error:
        logger.warning("where rank %d runs could not be written down: %s", rank, error)


def _cause_of(error: BaseException) -> BaseException:
    """What made the workers fail: the training's own error if there is one, else that they were lost.

    When one worker fails, the others' connections break, so several errors come together.
    """
    failures = getattr(error, "worker_failures", None) or {}
    causes = [getattr(failure, "_base_exc", failure) for _, failure in sorted(failures.items())]
    fenced = [cause for cause in causes if isinstance(cause, FencedError)]
    own = [cause for cause in causes if classify(cause).error_class is not ErrorClass.INFRASTRUCTURE]
    lost = WorkersLostError(f"workers were lost: {str(causes[0] if causes else error)[:500]}")
    return next(iter([*fenced, *own]), lost)
