"""Hyperparameter search on a Ray cluster: Optuna proposes the trials, Ray Tune places them.

Everything else is ours: a trial is a training run in a folder of its own, trained by `jobs.training.worker.train`, the
journal of `jobs.tuning.study` says which trials there are and which are over, and the winner is chosen from the
folders. A search that is taken up again therefore needs no state of Tune's.
"""

import os
from itertools import count
from typing import Any

from jobs.directory.records import Outcome, Phase, Result
from jobs.driver import DriverContext
from jobs.errors import FencedError, WorkersLostError
from jobs.preferences.waiting import wait_for_answers
from jobs.search.settings import HUMAN_SCORE
from jobs.specs import ScalingConfig, TuneSpec, model_name
from jobs.storage.data_sets import load_data
from jobs.training.checkpoints import CheckpointManager
from jobs.training.data_record import write_data_record
from jobs.training.final_test import evaluate_on_test, write_report
from jobs.training.log_lines import log_to_standard_error
from jobs.tuning.retraining import retrain, retrained_folder
from jobs.tuning.search_report import write_search_report
from jobs.tuning.study import SearchStudy
from jobs.tuning.trial_table import TrialTable
from jobs.tuning.trial_worker import run_trial
from jobs.tuning.tune_adapters import Proposals, control_stopper, scheduler, searcher, table_callback
from seqae.checkpoints.manifest import verify
from seqae.data.cache import Dataset
from seqae.errors import Error
from seqae.evaluation.names import modern, with_split

__all__ = ["NoTrialError", "search"]

_MAX_TRIAL_RESTARTS = 3
"""So often a trial is started again after it lost its process."""


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

    def check_fence() -> None:
        if context.is_fenced():
            raise FencedError(f"attempt {context.attempt.number} stops: a newer one exists")

    # Once here, rather than by all first trials at the same time.
    data = load_data(spec.base.data, spec.base.model, context.cache_dir, context.data_dir)
    write_data_record(context.attempt, data, spec.base.data)
    if spec.warm_start is not None:
        context.fetch_job(spec.warm_start)
    study = SearchStudy(spec, context.folder, check_fence)
    trial_table = TrialTable(spec, context.folder, context.attempt, study)
    for part in count(1):
        before = trial_table.counts()
        if trial_table.open() or not (trial_table.is_whole() or trial_table.missing_answers()):
            _run_tuner(context, spec, trial_table, part)
        waited = wait_for_answers(context, trial_table)
        # Without people there is one part. With them, answers may come while the tuner ends for lack of them.
        went_on = spec.is_by_eye and not trial_table.is_whole() and trial_table.counts() != before
        if context.folder.read_control().stops(context.attempt.number) or not (waited or went_on):
            break
    return _result(context, spec, trial_table, study, data)


def _run_tuner(context: DriverContext, spec: TuneSpec, trial_table: TrialTable, part: int) -> None:
    from ray import tune

    proposals = Proposals(context, spec, trial_table)
    tuner = tune.Tuner(
        tune.with_resources(_run_trial, _trial_resources(spec.base.scaling)),
        tune_config=tune.TuneConfig(
            search_alg=searcher(proposals),
            scheduler=scheduler(trial_table),
            num_samples=max(1, spec.most_trials - sum(row.is_over for row in trial_table.rows.values())),
            max_concurrent_trials=_max_concurrent_trials(spec.base.scaling),
        ),
        run_config=tune.RunConfig(
            name=f"search-{os.getpid()}-{part}",
            storage_path=str(context.attempt.path / "tune"),
            failure_config=tune.FailureConfig(max_failures=_MAX_TRIAL_RESTARTS),
            callbacks=[table_callback(trial_table)],
            stop=control_stopper(context, trial_table),
            verbose=0,
        ),
    )
    tuner.fit()


def _run_trial(config: dict[str, Any]) -> None:
    """What Ray Tune calls in the process of each trial."""
    from ray import tune

    log_to_standard_error()
    run_trial(config["run"], tune.report)


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


def _result(
    context: DriverContext, spec: TuneSpec, trial_table: TrialTable, study: SearchStudy, data: Dataset
) -> Result:
    control = context.folder.read_control()
    if control.fences(context.attempt.number):
        raise FencedError(f"attempt {control.attempt} has taken over")
    if control.want.outcome is not None:
        return Result(outcome=control.want.outcome, evaluation_set=data.test_checksum)
    trial_table.write_progress(Phase.FINALIZING)
    if not trial_table.is_whole():
        raise WorkersLostError("trials ended before they were done")
    if spec.is_by_eye:
        trial_table.close_scores()
    best = trial_table.winner()
    if best is None:
        messages = sorted({row.message for row in trial_table.rows.values() if row.message})
        raise NoTrialError(f"no trial gave a model: {'; '.join(messages)[:2000] or 'none was evaluated'}")
    folder = context.folder.trial(best.trial)
    if spec.retrain is not None:
        folder = retrained_folder(context.folder)
        stopped = retrain(context, spec, best, trial_table.write_progress)
        if stopped is not None:
            return Result(outcome=stopped, evaluation_set=data.test_checksum)
    write_search_report(context.attempt, spec, trial_table.rows, best, study)
    checkpoint = CheckpointManager(folder, folder.attempt(context.attempt.number), spec.metric).best()
    if checkpoint is None:
        raise NoTrialError(f"trial {best.trial} was the best, but has no checkpoint that is whole")
    manifest = verify(checkpoint)
    final = evaluate_on_test(
        checkpoint, data, progress=lambda _done, _count: trial_table.write_progress(Phase.FINALIZING)
    )
    test = with_split(final.metrics(), "test")
    score = {HUMAN_SCORE: best.metrics[HUMAN_SCORE]} if HUMAN_SCORE in best.metrics else {}
    metrics = modern(manifest.metrics) | test | score | {"best_trial": float(best.trial)}
    # The search's own run shows what the best trial's does.
    context.attempt.add_metrics(final.iteration, metrics)
    people = f"people, in {trial_table.answered()} comparisons of film strips" if spec.is_by_eye else None
    write_report(context.attempt, model_name(spec), data, final, chosen_by=people)
    return Result(
        outcome=Outcome.SUCCEEDED,
        metrics=metrics,
        checkpoint=str(checkpoint.relative_to(context.folder.path)),
        iterations=manifest.iteration,
        evaluation_set=data.test_checksum,
    )
