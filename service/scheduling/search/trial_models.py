"""Model of one trial of a search that has ended, for whoever wants to have it served."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.directory.layout import JobFolder
from jobs.errors import FolderError
from jobs.interfaces import Tracking
from jobs.promotion import Promotion
from jobs.search.space import Scalar
from jobs.specs import TuneSpec, model_name
from jobs.training.checkpoints import CheckpointManager
from service.db.models import JobRow
from service.errors import ConflictError, TrialNotFoundError
from service.scheduling.search.trial_views import search_report, search_spec

__all__ = ["TrialModel", "promote_trial", "trial_model"]


@dataclass(frozen=True)
class TrialModel:
    """What is needed to register a trial's model."""

    job_id: str
    trial: int
    name: str
    """Of the registered model that it becomes a version of."""
    run_id: str
    """The search's own run in MLflow."""
    params: Mapping[str, Scalar]
    metrics: Mapping[str, float]
    checkpoint: Path
    """The best of those that are whole."""
    version: str | None
    """The version that the search itself made of this model; None where it made none."""


def trial_model(row: JobRow, folder: JobFolder, number: int) -> TrialModel:
    """The model of a trial.

    Args:
        row: of the job.
        folder: the job's.
        number: of the trial.

    Raises:
        TrialNotFoundError: the job is no search, or has no such trial.
        ConflictError: the search has not ended, has no run in MLflow, or the trial has no model that is whole.
    """
    spec, rows = search_spec(row), folder.trials()
    if number not in rows:
        raise TrialNotFoundError(f"job {row.id} has no trial {number}")
    if not row.state.is_terminal:
        # Its own result would be taken for one of its trials.
        raise ConflictError(f"job {row.id} is {row.state}: its trials can be promoted when it has ended")
    if row.mlflow_run_id is None:
        raise ConflictError(f"job {row.id} has no run in MLflow to keep a model in")
    trial = rows[number]
    checkpoint = _checkpoint(spec, folder, number) if trial.state.has_model else None
    if checkpoint is None:
        raise ConflictError(f"trial {number} of job {row.id} is {trial.state} and has no checkpoint that is whole")
    return TrialModel(
        job_id=row.id,
        trial=number,
        name=model_name(spec),
        run_id=row.mlflow_run_id,
        params=trial.params,
        metrics=trial.metrics,
        checkpoint=checkpoint,
        version=_own_version(row, folder, number),
    )


def promote_trial(tracking: Tracking, model: TrialModel, who: str, why: str) -> None:
    """Makes a trial's model a version, once, and the champion. Harmless to repeat.

    Args:
        tracking: has the registry.
        model: the trial's.
        who: asks.
        why: for whoever reads the history.

    Raises:
        TrackingUnavailable: MLflow does not answer.
        NoRun: MLflow has lost the search's run.
    """
    about = f"trial {model.trial} of {model.job_id}"
    version = model.version
    if version is None:
        run = tracking.create_trial_run(model.run_id, model.trial, model.params)
        decided = Promotion(promoted=True, reason=f"{about}, chosen by {who or 'somebody'}")
        made = tracking.register(
            model.job_id, run.run_id, model.name, model.checkpoint, model.metrics, None, decided=decided
        )
        version = made.version.version
    tracking.promote(model.name, version, who, f"{about}: {why}" if why else about)


def _checkpoint(spec: TuneSpec, folder: JobFolder, number: int) -> Path | None:
    trial = folder.trial(number)
    attempts = trial.attempts()
    try:
        path = CheckpointManager(trial, attempts[-1], spec.metric).best() if attempts else None
    except (OSError, FolderError) as error:
        raise ConflictError(f"the checkpoints of trial {number} can't be read: {type(error).__name__}") from error
    return path if path is not None and path.resolve().is_relative_to(folder.path.resolve()) else None


def _own_version(row: JobRow, folder: JobFolder, number: int) -> str | None:
    report = search_report(folder)
    is_result = report is not None and report.best_trial == number and not report.retrained
    return row.model_version if is_result else None
