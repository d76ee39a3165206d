"""Hyperparameter search on a Ray cluster, with Ray Tune and its ASHA scheduler.

Ray Tune places the trials and ASHA stops the poor ones. Everything else is ours: a trial is a training run in a folder
of its own, trained by `jobs.training.worker.train`, and the winner is chosen from those folders. A search that is
taken up again therefore needs no state of Tune's: each trial first reports what it had reported before, and goes on
from there.
"""

import os
import time
from typing import TYPE_CHECKING, Any

from jobs.directory.records import Outcome, Phase, Result
from jobs.driver import DriverContext
from jobs.errors import FencedError, WorkersLostError
from jobs.specs import ScalingConfig, TuneSpec, model_name
from jobs.training.checkpoints import CheckpointManager
from jobs.training.data_record import write_data_record
from jobs.training.final_test import evaluate_on_test, write_report
from jobs.training.log_lines import log_to_standard_error
from jobs.training.worker import TrainingTask
from jobs.tuning.trial_table import TrialTable
from jobs.tuning.trial_worker import TrialRun, run_trial
from jobs.tuning.trials import trial_spec
from seqae.checkpoints.manifest import verify
from seqae.data.cache import Dataset, load_data
from seqae.errors import Error
from seqae.evaluation.names import modern, with_split

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

__all__ = ["NoTrialError", "search"]

_MAX_TRIAL_RESTARTS = 3
"""So often a trial is started again after it lost its process."""

_STOP_GRACE = 10.0
"""Seconds that trials which train get to stop by themselves."""


class NoTrialError(Error):
    """No trial of a search gave a model."""


def search(context: DriverContext, spec: TuneSpec) -> Result:
    """Runs the trials of a search that are not over, and selects the best.

    Args:
        context: of the attempt; the process must be connected to the cluster.
        spec: the search.

    Returns:
        How it ended, with the winner's checkpoint and metrics, and its number as the metric `best_trial`.

    Raises:
        DataError: the data is missing or damaged.
        FencedError: a newer attempt exists.
        WorkersLostError: a trial ended before it was done.
        NoTrialError: no trial gave a model.
    """
    # Read by Tune when a Tuner is made: our own rows replace its log files.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    trial_table = TrialTable(spec, context.folder, context.attempt)
    # Once here, rather than by all first trials at the same time.
    data = load_data(spec.base.data, spec.base.model, context.cache_dir, context.data_dir)
    write_data_record(context.attempt, data, spec.base.data)
    _run_tuner(context, spec, trial_table)
    return _result(context, spec, trial_table, data)


def _run_tuner(context: DriverContext, spec: TuneSpec, trial_table: TrialTable) -> None:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    epochs = spec.base.schedule.epochs
    runs = [
        TrialRun(task=_prepare_trial(context, spec, trial), scaling=spec.base.scaling, is_over=row.is_over)
        for trial, row in trial_table.rows.items()
    ]
    tuner = tune.Tuner(
        tune.with_resources(_run_trial, _trial_resources(spec.base.scaling)),
        param_space={"run": tune.grid_search(runs)},
        tune_config=tune.TuneConfig(
            metric=spec.metric.value,
            mode=spec.metric.mode,
            scheduler=ASHAScheduler(
                time_attr="epoch",
                max_t=epochs,
                grace_period=min(spec.grace_epochs, epochs),
                reduction_factor=spec.reduction_factor,
            ),
            max_concurrent_trials=_max_concurrent_trials(spec.base.scaling),
        ),
        run_config=tune.RunConfig(
            name=f"search-{os.getpid()}",
            storage_path=str(context.attempt.path / "tune"),
            failure_config=tune.FailureConfig(max_failures=_MAX_TRIAL_RESTARTS),
            callbacks=[_table_callback(trial_table)],
            stop=_control_stopper(context, trial_table),
            verbose=0,
        ),
    )
    tuner.fit()


def _run_trial(config: dict[str, Any]) -> None:
    """What Ray Tune calls in the process of each trial."""
    from ray import tune

    log_to_standard_error()
    run_trial(config["run"], tune.report)


def _prepare_trial(context: DriverContext, spec: TuneSpec, trial: int) -> TrainingTask:
    """Makes the trial's folder, unless an earlier attempt did."""
    folder = context.folder.trial(trial)
    if not (folder.path / "spec.json").exists():
        folder.write_spec(trial_spec(spec, trial))
    return TrainingTask(
        folder=folder.path,
        control=context.folder.path,
        attempt=context.attempt.number,
        cache_dir=context.cache_dir,
        data_dir=context.data_dir,
        metric=spec.metric,
        tests=False,
    )


def _trial_resources(scaling: ScalingConfig) -> dict[str, float]:
    """What the process of a trial asks for.

    With one worker that process trains itself. With more it only waits for workers of its own, so it must not take a
    CPU that these need: on a full cluster all would wait for ever.
    """
    import ray

    if scaling.max_workers == 1:
        return {"cpu": scaling.cpus_per_worker, "gpu": scaling.gpus_per_worker}
    name = "trial_driver" if "trial_driver" in ray.cluster_resources() else "node:__internal_head__"
    return {"cpu": 0, name: 1 if name == "trial_driver" else 0.001}


def _max_concurrent_trials(scaling: ScalingConfig) -> int:
    """How many trials fit at once, each with all its workers."""
    import ray

    cluster = ray.cluster_resources()
    shares = [cluster.get("CPU", 0) / (scaling.cpus_per_worker * scaling.max_workers)]
    if scaling.gpus_per_worker > 0:
        shares.append(cluster.get("GPU", 0) / (scaling.gpus_per_worker * scaling.max_workers))
    return max(1, int(min(shares)))


def _table_callback(trial_table: TrialTable) -> Any:
    """Callback of Ray Tune that keeps the table of trials up to date."""
    from ray.tune import Callback

    # Tune passes everything by name.
    class TableCallback(Callback):  # type: ignore[misc]  # ray has no types
        def on_trial_start(self, *, trial: "Trial", **_: Any) -> None:
            trial_table.mark_running(_number(trial))

        def on_trial_result(self, *, trial: "Trial", **_: Any) -> None:
            trial_table.mark_running(_number(trial))

        def on_trial_complete(self, *, trial: "Trial", **_: Any) -> None:
            trial_table.mark_ended(_number(trial))

        def on_trial_error(self, *, trial: "Trial", **_: Any) -> None:
            trial_table.mark_ended(_number(trial), error="the trial lost its process too often")

    return TableCallback()


def _number(trial: "Trial") -> int:
    run: TrialRun = trial.config["run"]
    return int(run.task.folder.name)


def _control_stopper(context: DriverContext, trial_table: TrialTable) -> Any:
    """Stopper of Ray Tune that obeys control.json."""
    from ray.tune import Stopper

    class ControlStopper(Stopper):  # type: ignore[misc]  # ray has no types
        """Ends the search when asked to, once the trials that run have stopped by themselves."""

        def __init__(self) -> None:
            self._stop_seen_at: float | None = None

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            return False

        def stop_all(self) -> bool:
            if not context.folder.read_control().stops(context.attempt.number):
                return False
            self._stop_seen_at = self._stop_seen_at or time.monotonic()
            return trial_table.is_idle() or time.monotonic() - self._stop_seen_at > _STOP_GRACE

    return ControlStopper()


def _result(context: DriverContext, spec: TuneSpec, trial_table: TrialTable, data: Dataset) -> Result:
    control = context.folder.read_control()
    if control.fences(context.attempt.number):
        raise FencedError(f"attempt {control.attempt} has taken over")
    if control.want.outcome is not None:
        return Result(outcome=control.want.outcome, evaluation_set=data.test_checksum)
    trial_table.write_progress(Phase.FINALIZING)
    if any(not row.is_over for row in trial_table.rows.values()):
        raise WorkersLostError("trials ended before they were done")
    best = trial_table.winner()
    if best is None:
        messages = sorted({row.message for row in trial_table.rows.values() if row.message})
        raise NoTrialError(f"no trial gave a model: {'; '.join(messages)[:2000] or 'none was evaluated'}")
    folder = context.folder.trial(best.trial)
    checkpoint = CheckpointManager(folder, folder.attempt(context.attempt.number), spec.metric).best()
    if checkpoint is None:
        raise NoTrialError(f"trial {best.trial} was the best, but has no checkpoint that is whole")
    manifest = verify(checkpoint)
    final = evaluate_on_test(
        checkpoint, data, progress=lambda _done, _count: trial_table.write_progress(Phase.FINALIZING)
    )
    test = with_split(final.metrics(), "test")
    metrics = modern(manifest.metrics) | test | {"best_trial": float(best.trial)}
    # The search's own run shows what the best trial's does.
    context.attempt.add_metrics(final.iteration, metrics)
    write_report(context.attempt, model_name(spec), data, final)
    return Result(
        outcome=Outcome.SUCCEEDED,
        metrics=metrics,
        checkpoint=str(checkpoint.relative_to(context.folder.path)),
        iterations=manifest.iteration,
        evaluation_set=data.test_checksum,
    )
