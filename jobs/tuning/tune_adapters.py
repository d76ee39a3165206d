"""What Ray Tune asks while it places trials: the next trial, whether one goes on, and what has ended.

Tune saves its own state now and then; of these objects it gets nothing, since nothing of it is ever read.
"""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from jobs.directory.carry_over import inherit_run
from jobs.driver import DriverContext
from jobs.search.settings import Scheduler
from jobs.search.space import Params
from jobs.specs import TuneSpec
from jobs.training.worker import TrainingTask
from jobs.tuning.study import Verdict
from jobs.tuning.trial_table import TrialTable
from jobs.tuning.trial_worker import TrialRun
from jobs.tuning.trials import seed_folder, trial_spec

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

__all__ = ["Proposals", "control_stopper", "scheduler", "searcher", "table_callback"]

logger = logging.getLogger(__name__)

_STOP_GRACE = 10.0
"""Seconds that trials which train get to stop by themselves."""


_COPIES = 3
"""So often a model is copied again that changed while it was."""


class Proposals:
    """Trials to place: first those that an earlier attempt left open, then what the study proposes.

    Args:
        context: of the driver.
        spec: the search.
        trial_table: its trials.
    """

    def __init__(self, context: DriverContext, spec: TuneSpec, trial_table: TrialTable) -> None:
        self._context = context
        self._spec = spec
        self.table = trial_table
        self._open = trial_table.open()

    def next(self) -> TrialRun | None:
        """The next trial, its folder made; None where there is none now.

        Raises:
            FencedError: a newer attempt exists.
        """
        while not self._context.folder.read_control().stops(self._context.attempt.number):
            trial = self._open.pop(0) if self._open else self.table.propose()
            if trial is None:
                return None
            row = self.table.rows[trial]
            reason = self._make_folder(trial, row.params, row.parent)
            if reason is not None:
                self.table.refuse(trial, reason)
                continue
            # From here on it counts as running, whenever Tune gets to it.
            self.table.mark_running(trial)
            return TrialRun(self._task(trial), self._spec.base.scaling, self._spec.seeds)
        return None

    def _make_folder(self, trial: int, params: Params, parent: int | None) -> str | None:
        """Makes the folder of a trial with what it begins with; why that is not possible, if it is not."""
        try:
            self._write_specs(trial, params)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return f"the config refuses these values together: {first['msg']}"
        if parent is None:
            return None
        for _ in range(_COPIES):
            try:
                inherit_run(self._context.folder.trial(parent), self._context.folder.trial(trial))
            except OSError as error:
                # The other trial may have removed a checkpoint meanwhile.
                logger.warning("trial %d: the model of trial %d is copied again: %s", trial, parent, error)
            else:
                return None
        return f"the model of trial {parent} could not be copied"

    def _write_specs(self, trial: int, params: Params) -> None:
        """Makes the trial's folder with those of its seeds, unless an earlier attempt did."""
        own, search = self._context.folder.trial(trial), self._context.folder
        for number in reversed(range(self._spec.seeds)):
            folder = seed_folder(own, search, number)
            if not (folder.path / "spec.json").exists():
                spec = trial_spec(self._spec, params)
                folder.write_spec(spec.model_copy(update={"seed": (spec.seed + number) % 2**31}))

    def _task(self, trial: int) -> TrainingTask:
        return TrainingTask(
            folder=self._context.folder.trial(trial).path,
            control=self._context.folder.path,
            attempt=self._context.attempt.number,
            cache_dir=self._context.cache_dir,
            data_dir=self._context.data_dir,
            metric=self._spec.metric,
            tests=False,
            heals_divergence=False,
            other_settings=self._spec.stops_by is Scheduler.PBT,
        )


def searcher(proposals: Proposals) -> Any:
    """Searcher of Ray Tune that hands out the proposals."""
    from ray.tune.search import Searcher

    class ProposalSearcher(Searcher):  # type: ignore[misc]  # ray has no types
        def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:  # noqa: ARG002
            return True

        def suggest(self, trial_id: str) -> Any:  # noqa: ARG002
            run = proposals.next()
            if run is not None:
                return {"run": run}
            # A trial that runs may make room for another one; without any, nothing will.
            return Searcher.FINISHED if proposals.table.is_idle() or proposals.table.has_all() else None

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass

        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).touch()

        def restore(self, checkpoint_path: str) -> None:
            pass

        def __reduce__(self) -> tuple[type, tuple[()]]:
            return (dict, ())

    return ProposalSearcher()


def scheduler(trial_table: TrialTable) -> Any:
    """Scheduler of Ray Tune that stops the trials which the study stops."""
    from ray.tune.schedulers import FIFOScheduler

    class StudyScheduler(FIFOScheduler):  # type: ignore[misc]  # ray has no types
        def on_trial_result(self, tune_controller: Any, trial: "Trial", result: dict[str, Any]) -> str:  # noqa: ARG002
            verdict = trial_table.evaluate(_number(trial))
            return str(FIFOScheduler.STOP if verdict is Verdict.STOP else FIFOScheduler.CONTINUE)

        def __reduce__(self) -> tuple[type, tuple[()]]:
            return (dict, ())

    return StudyScheduler()


def table_callback(trial_table: TrialTable) -> Any:
    """Callback of Ray Tune that keeps the table of trials up to date."""
    from ray.tune import Callback

    # Tune passes everything by name.
    class TableCallback(Callback):  # type: ignore[misc]  # ray has no types
        def on_trial_complete(self, *, trial: "Trial", **_: Any) -> None:
            trial_table.mark_ended(_number(trial))

        def on_trial_error(self, *, trial: "Trial", **_: Any) -> None:
            trial_table.mark_ended(_number(trial), error="the trial lost its process too often")

        def __reduce__(self) -> tuple[type, tuple[()]]:
            return (dict, ())

    return TableCallback()


def _number(trial: "Trial") -> int:
    run: TrialRun = trial.config["run"]
    return int(run.task.folder.name)


def control_stopper(context: DriverContext, trial_table: TrialTable) -> Any:
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

        def __reduce__(self) -> tuple[type, tuple[()]]:
            return (dict, ())

    return ControlStopper()
