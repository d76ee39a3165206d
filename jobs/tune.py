"""Searches on the cluster: `python -m jobs.tune --job-dir DIR --attempt N`.

Ray Tune places the trials and ASHA stops the poor ones. Everything else is ours: a trial is a training run in a folder
of its own, trained by `jobs.training.worker.train`, and the winner is chosen from those folders. A search that is
taken up again therefore needs no state of Tune's: each trial first reports what it had reported before, and goes on
from there.
"""

import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from jobs.directory.records import NoteKind, Outcome, Phase, Result
from jobs.driver import DriverContext, connect, drive
from jobs.errors import FencedError, WorkersLostError
from jobs.specs import ScalingConfig, TuneSpec
from jobs.training.checkpoints import CheckpointManager
from jobs.training.worker import TrainingTask
from jobs.tuning.trial_table import TrialTable
from jobs.tuning.trial_worker import run_trial
from jobs.tuning.trials import trial_spec
from seqae.checkpoints.manifest import verify
from seqae.data.cache import load_data
from seqae.errors import Error

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

__all__ = ["main"]

logger = logging.getLogger(__name__)

_LOST_WORKERS = 3
"""So often a trial is started again after it lost its process."""

_STOP_GRACE = 10.0


class NoTrialError(Error):
    """No trial of a search gave a model."""


def main() -> int:
    return drive(_run)


def _run(context: DriverContext) -> Result:
    # Read by Tune when a Tuner is made: our own rows replace its log files.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    connect()
    spec = context.folder.read_spec()
    if not isinstance(spec, TuneSpec):
        raise TypeError(f"{context.folder.path}: not a search")
    ledger = TrialTable(spec, context.folder, context.attempt)
    # Once here, rather than by all first trials at the same time.
    data = load_data(spec.base.data, spec.base.model, context.cache_dir, context.data_dir)
    context.attempt.add_note(NoteKind.DATA, data.source)
    _search(context, spec, ledger)
    return _result(context, spec, ledger, data.checksum)


def _search(context: DriverContext, spec: TuneSpec, ledger: TrialTable) -> None:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    epochs = spec.base.schedule.epochs
    runs = [
        {"task": _prepare(context, spec, trial), "scaling": spec.base.scaling, "over": row.is_over}
        for trial, row in ledger.rows.items()
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
            max_concurrent_trials=_concurrent(spec.base.scaling),
        ),
        run_config=tune.RunConfig(
            name=f"search-{os.getpid()}",
            storage_path=str(context.attempt.path / "tune"),
            failure_config=tune.FailureConfig(max_failures=_LOST_WORKERS),
            callbacks=[_callback(ledger)],
            stop=_stopper(context, ledger),
            verbose=0,
        ),
    )
    tuner.fit()


def _run_trial(config: dict[str, Any]) -> None:
    run_trial(config["run"])


def _prepare(context: DriverContext, spec: TuneSpec, trial: int) -> TrainingTask:
    """Makes the trial's folder, unless an earlier attempt did."""
    own = context.folder.trial(trial)
    if not (own.path / "spec.json").exists():
        own.write_spec(trial_spec(spec, trial))
    return TrainingTask(
        folder=own.path,
        control=context.folder.path,
        attempt=context.attempt.number,
        cache_dir=context.cache_dir,
        data_dir=context.data_dir,
        metric=spec.metric,
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


def _concurrent(scaling: ScalingConfig) -> int:
    """How many trials fit at once, each with all its workers."""
    import ray

    cluster = ray.cluster_resources()
    shares = [cluster.get("CPU", 0) / (scaling.cpus_per_worker * scaling.max_workers)]
    if scaling.gpus_per_worker > 0:
        shares.append(cluster.get("GPU", 0) / (scaling.gpus_per_worker * scaling.max_workers))
    return max(1, int(min(shares)))


def _callback(ledger: TrialTable) -> Any:
    from ray.tune import Callback

    # Tune passes everything by name.
    class Follow(Callback):  # type: ignore[misc]  # ray has no types
        def on_trial_start(self, *, trial: "Trial", **_: Any) -> None:
            ledger.running(_number(trial))

        def on_trial_result(self, *, trial: "Trial", **_: Any) -> None:
            ledger.running(_number(trial))

        def on_trial_complete(self, *, trial: "Trial", **_: Any) -> None:
            ledger.ended(_number(trial))

        def on_trial_error(self, *, trial: "Trial", **_: Any) -> None:
            ledger.ended(_number(trial), error="the trial lost its process too often")

    return Follow()


def _number(trial: "Trial") -> int:
    return int(trial.config["run"]["task"].folder.name)


def _stopper(context: DriverContext, ledger: TrialTable) -> Any:
    from ray.tune import Stopper

    class Obey(Stopper):  # type: ignore[misc]  # ray has no types
        """Ends the search when asked to, once the trials that run have stopped by themselves."""

        def __init__(self) -> None:
            self._asked_at: float | None = None

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            return False

        def stop_all(self) -> bool:
            control = context.folder.read_control()
            if not control.stops(context.attempt.number):
                return False
            self._asked_at = self._asked_at or time.monotonic()
            return ledger.is_idle or time.monotonic() - self._asked_at > _STOP_GRACE

    return Obey()


def _result(context: DriverContext, spec: TuneSpec, ledger: TrialTable, checksum: str) -> Result:
    control = context.folder.read_control()
    if control.fences(context.attempt.number):
        raise FencedError(f"attempt {control.attempt} has taken over")
    if control.want.outcome is not None:
        return Result(outcome=control.want.outcome, evaluation_set=checksum)
    ledger.write_progress(Phase.FINALIZING)
    if any(not row.is_over for row in ledger.rows.values()):
        raise WorkersLostError("trials ended before they were done")
    best = ledger.winner()
    if best is None:
        messages = sorted({row.message for row in ledger.rows.values() if row.message})
        raise NoTrialError(f"no trial gave a model: {'; '.join(messages)[:2000] or 'none was evaluated'}")
    own = context.folder.trial(best.trial)
    chosen = CheckpointManager(own, own.attempt(context.attempt.number), spec.metric).best()
    if chosen is None:
        raise NoTrialError(f"trial {best.trial} was the best, but has no checkpoint that is whole")
    manifest = verify(chosen)
    return Result(
        outcome=Outcome.SUCCEEDED,
        metrics=manifest.metrics | {"best_trial": float(best.trial)},
        checkpoint=str(chosen.relative_to(context.folder.path)),
        iterations=manifest.iteration,
        evaluation_set=checksum,
    )


if __name__ == "__main__":
    sys.exit(main())
