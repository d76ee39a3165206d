"""Retraining of a search's winner: its settings once more, for as long as the spec says, in a folder of their own."""

from collections.abc import Callable

from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.directory.records import NoteKind, Outcome, Phase, TrialRow
from jobs.driver import DriverContext
from jobs.periodic_thread import PeriodicThread
from jobs.specs import TrainSpec, TuneSpec
from jobs.training.ray_fit import fit
from jobs.training.worker import TrainingTask
from jobs.tuning.trials import trial_spec

__all__ = ["retrain", "retrained_folder", "retrained_spec"]

_LOOK_INTERVAL = 2.0


def retrained_folder(search: JobFolder) -> JobFolder:
    """Where the winner is trained once more: a training run that obeys the search's control.json."""
    return JobFolder(search.path / "retrained", control=search.path)


def retrained_spec(spec: TuneSpec, best: TrialRow) -> TrainSpec:
    """The winner's settings with the epochs and the seed that the search's spec has for this.

    Raises:
        ValueError: the search's spec does not ask for it.
    """
    if spec.retrain is None:
        raise ValueError("the search asks for no retraining")
    train = trial_spec(spec, best.params)
    schedule = train.schedule.model_copy(update={"epochs": spec.retrain.epochs})
    seed = train.seed if spec.retrain.seed is None else spec.retrain.seed
    return train.model_copy(update={"schedule": schedule, "seed": seed})


def retrain(
    context: DriverContext, spec: TuneSpec, best: TrialRow, write_progress: Callable[[Phase], None]
) -> Outcome | None:
    """Trains the winner's settings once more, from the newest checkpoint of that if there is one.

    Args:
        context: of the driver.
        spec: the search.
        best: the winner.
        write_progress: writes the search's heartbeat.

    Returns:
        How the attempt is to end where it was stopped; None after the end of the training.

    Raises:
        Error: as `jobs.training.ray_fit.fit`.
    """
    folder = retrained_folder(context.folder)
    folder.write_spec(retrained_spec(spec, best))
    context.attempt.add_note(NoteKind.RETRAINING, f"the settings of trial {best.trial}, for {_epochs(spec)} epochs")
    beat = PeriodicThread("retraining", _LOOK_INTERVAL, _Beat(folder.attempt(context.attempt.number), write_progress))
    beat.start()
    try:
        task = TrainingTask(
            folder=folder.path,
            control=context.folder.path,
            attempt=context.attempt.number,
            cache_dir=context.cache_dir,
            data_dir=context.data_dir,
            metric=spec.metric,
            tests=False,
        )
        outcome = fit(task, spec.base.scaling).outcome
    finally:
        beat.request_stop()
        beat.join(timeout=10)
    return None if outcome is Outcome.SUCCEEDED else outcome


def _epochs(spec: TuneSpec) -> str:
    return "" if spec.retrain is None else f"{spec.retrain.epochs:g}"


class _Beat:
    """Says that the search moves on whenever the training does."""

    def __init__(self, attempt: AttemptFolder, write_progress: Callable[[Phase], None]) -> None:
        self._attempt = attempt
        self._write_progress = write_progress
        self._seen: float | None = None

    def __call__(self) -> None:
        progress = self._attempt.read_progress()
        if progress is not None and progress.last_progress_at != self._seen:
            self._seen = progress.last_progress_at
            self._write_progress(Phase.FINALIZING)
