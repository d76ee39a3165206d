"""MLflow behind the `Tracking` protocol: runs here, models in `jobs.backends.mlflow_registry`.

What is sent is a projection of the job folders, so everything here may be repeated, late, or done by someone else. No
id of an experiment is kept: in MLflow's pages a person may delete, restore and rename anything at any time.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from jobs.backends.mlflow_client import JOB_TAG, mapped_errors, new_client
from jobs.backends.mlflow_experiments import Experiments, run_path, search_runs, table_path
from jobs.backends.mlflow_registry import ARTIFACT_PATH, ModelRegistry
from jobs.backends.mlflow_shipping import Shipper, read_shipped
from jobs.backends.provenance import SEARCH, provenance
from jobs.directory.layout import JobFolder
from jobs.directory.records import EvaluationReport, TrialRow, TrialState
from jobs.errors import NoRun, TrackingRefused
from jobs.interfaces import ModelVersion, OpenRun, RegisteredModel, Registration, RunDetails, RunRef, RunStatus
from jobs.promotion import Promotion

if TYPE_CHECKING:
    import mlflow

__all__ = ["MlflowTracking"]

_KIND_TAG = "seqae.kind"
_TRIAL_TAG = "seqae.trial"
_REASON_TAG = "seqae.why_it_ended"
"""Of a trial that was stopped early or failed."""
_PARENT_TAG = "mlflow.parentRunId"
_MODELS_TAG = "mlflow.log-model.history"
"""From this MLflow's tables know which files of a run are a model, and so which registered version they are."""
_CONFIG_FILE = "config.yaml"

# A trial that the search stopped early has not failed.
_TRIAL_STATUS = {
    TrialState.SUCCEEDED: RunStatus.FINISHED,
    TrialState.STOPPED: RunStatus.KILLED,
    TrialState.FAILED: RunStatus.FAILED,
}

_MAX_PARAM_LENGTH = 6000
_MAX_NAME_LENGTH = 200
"""Characters of a run's name that people can still read in a table."""


class MlflowTracking:
    """Runs, metrics and models on an MLflow server.

    Args:
        url: of the server.
        cache_dir: downloaded models are kept here.
        public_url: where people's browsers reach the server, when that is not `url`.
        experiment: runs that are about no registered model are made in this one; older releases made all in it.
        default_model: what `champion` means; empty: the model that was promoted last.
        new_client: makes the client; for tests.
    """

    def __init__(
        self,
        url: str,
        cache_dir: Path,
        public_url: str | None = None,
        experiment: str = "seqae",
        default_model: str = "",
        new_client: Callable[[str], "mlflow.MlflowClient"] = new_client,
    ) -> None:
        self._url = url
        self._public_url = (public_url or url).rstrip("/")
        self._cache_dir = cache_dir
        self._experiment_name = experiment
        self._default_model = default_model
        self._new_client = new_client

    # Runs

    def create_run(
        self, job_id: str, name: str, kind: str, params: Mapping[str, Any], details: RunDetails | None = None
    ) -> RunRef:
        """See `jobs.interfaces.Tracking.create_run`."""
        about = details or RunDetails()
        tags = {
            JOB_TAG: job_id,
            _KIND_TAG: kind,
            "mlflow.source.type": "JOB",
            "mlflow.source.name": f"jobs.{kind}",
            **({"mlflow.user": about.owner} if about.owner else {}),
            **provenance(),
        }
        with mapped_errors():
            experiment = self._experiments.ensure(about.experiment)
            query = f"tags.`{JOB_TAG}` = '{job_id}'"
            everywhere = sorted({experiment, *self._experiments.ids()})
            found = [run for run in search_runs(self._client, everywhere, query) if _PARENT_TAG not in run.data.tags]
            tags["mlflow.note.content"] = _note(job_id, experiment)
            run = found[0] if found else self._new_run(experiment, _run_name(name, job_id), tags)
            # Sent for a run that was found too: a crash may have come between.
            self._log_params(run, params)
            if about.config:
                self._client.log_text(run.info.run_id, about.config, _CONFIG_FILE)
        return self._ref(run)

    def create_trial_run(self, parent_run_id: str, trial: int, params: Mapping[str, Any]) -> RunRef:
        """See `jobs.interfaces.Tracking.create_trial_run`."""
        with self._errors_of(parent_run_id):
            return self._ref(self._trial_run(self._active_run(parent_run_id), trial, params))

    def close_run(self, run_id: str, status: RunStatus) -> None:
        """See `jobs.interfaces.Tracking.close_run`."""
        with self._errors_of(run_id):
            run = self._active_run(run_id)
            query = f"tags.`{_PARENT_TAG}` = '{run_id}' and attributes.status = 'RUNNING'"
            for each in [*search_runs(self._client, [run.info.experiment_id], query), run]:
                if each.info.status == "RUNNING":
                    self._client.set_terminated(each.info.run_id, status.value)

    def open_runs(self) -> list[OpenRun]:
        """See `jobs.interfaces.Tracking.open_runs`."""
        with mapped_errors():
            runs = search_runs(self._client, self._experiments.ids(), "attributes.status = 'RUNNING'")
        own = (run for run in runs if JOB_TAG in run.data.tags and _PARENT_TAG not in run.data.tags)
        return [OpenRun(run.info.run_id, run.data.tags[JOB_TAG]) for run in own]

    def ship(self, job_dir: Path, run_id: str) -> None:
        """See `jobs.interfaces.Tracking.ship`."""
        folder = JobFolder(job_dir)
        # Two shippers of one folder would each send what the other has not yet recorded as sent.
        with FileLock(job_dir / "shipped.lock"), self._errors_of(run_id):
            run = self._active_run(run_id)
            kind = run.data.tags.get(_KIND_TAG, "")
            self._shipper.ship(folder, run, kind)
            rows = folder.trials()
            for index, row in rows.items():
                trial = folder.trial(index)
                if row.state is not TrialState.PENDING and read_shipped(trial).closed_below != run_id:
                    self._ship_trial(trial, row, run)
            if rows:
                self._shipper.ship_trials(folder, run, list(rows.values()))

    def _ship_trial(self, trial: JobFolder, row: TrialRow, parent: Any) -> None:
        run = self._trial_run(parent, row.trial, row.params)
        with FileLock(trial.path / "shipped.lock"):
            self._shipper.ship(trial, run, "train")
            if row.is_over:
                if row.message:
                    self._client.set_tag(run.info.run_id, _REASON_TAG, row.message[:_MAX_PARAM_LENGTH])
                if run.info.status == "RUNNING":
                    self._client.set_terminated(run.info.run_id, _TRIAL_STATUS[row.state].value)
                shipped = read_shipped(trial)
                shipped.closed_below = parent.info.run_id
                trial.write_shipped(shipped)

    def _trial_run(self, parent: Any, trial: int, drawn: Mapping[str, Any]) -> Any:
        """The run of a trial, in the experiment of its search, with the search's params and what it drew; made once."""
        parent_id, experiment = parent.info.run_id, parent.info.experiment_id
        query = f"tags.`{_PARENT_TAG}` = '{parent_id}' and tags.`{_TRIAL_TAG}` = '{trial}'"
        found = search_runs(self._client, [experiment], query)
        run = found[0] if found else None
        if run is None:
            owner = parent.data.tags.get("mlflow.user")
            tags = {
                _PARENT_TAG: parent_id,
                _TRIAL_TAG: str(trial),
                "mlflow.source.type": "JOB",
                "mlflow.source.name": "jobs.tune",
                **({"mlflow.user": owner} if owner else {}),
                **provenance(),
            }
            run = self._new_run(experiment, _trial_name(trial, drawn), tags)
        common = {key: value for key, value in parent.data.params.items() if not key.startswith(SEARCH)}
        self._log_params(run, {**common, **drawn})
        return run

    def _new_run(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> Any:
        return self._client.create_run(experiment_id, tags=dict(tags), run_name=name)

    def _log_params(self, run: Any, params: Mapping[str, Any]) -> None:
        self._shipper.log_params(run, {name: str(value)[:_MAX_PARAM_LENGTH] for name, value in params.items()})

    def _ref(self, run: Any) -> RunRef:
        run_id = str(run.info.run_id)
        return RunRef(run_id, self._public_url + run_path(run.info.experiment_id, run_id))

    def _active_run(self, run_id: str) -> Any:
        """A run as the server has it. Raises: NoRun where it was deleted; MLflow's own errors."""
        run = self._client.get_run(run_id)
        if run.info.lifecycle_stage == "deleted":
            raise NoRun(f"the run {run_id} was deleted in MLflow")
        return run

    @contextmanager
    def _errors_of(self, run_id: str) -> Iterator[None]:
        """Maps errors of calls about a run: what the server refuses because the run was deleted meanwhile is NoRun."""
        try:
            with mapped_errors():
                yield
        except TrackingRefused:
            with mapped_errors():
                self._active_run(run_id)
            raise

    # Models

    def register(
        self,
        job_id: str,
        run_id: str,
        model: str,
        checkpoint_dir: Path,
        metrics: Mapping[str, float],
        report: EvaluationReport | None,
        decided: Promotion | None = None,
    ) -> Registration:
        """See `jobs.interfaces.Tracking.register`."""
        with self._errors_of(run_id):
            run = self._active_run(run_id)
            made = self._registry.register(job_id, run_id, model, checkpoint_dir, metrics, report, decided)
            if _MODELS_TAG not in run.data.tags:
                self._client.set_tag(run_id, _MODELS_TAG, json.dumps([_logged_model(run_id)]))
            return made

    def resolve(self, selector: str) -> ModelVersion:
        """See `jobs.interfaces.Tracking.resolve`."""
        with mapped_errors():
            return self._registry.resolve(selector)

    def models(self) -> list[RegisteredModel]:
        """See `jobs.interfaces.Tracking.models`."""
        with mapped_errors():
            return self._registry.models()

    def promote(self, model: str, version: str, who: str, why: str) -> None:
        """See `jobs.interfaces.Tracking.promote`."""
        with mapped_errors():
            self._registry.promote(model, version, who, why)

    def rollback(self, model: str, who: str, why: str) -> None:
        """See `jobs.interfaces.Tracking.rollback`."""
        with mapped_errors():
            self._registry.rollback(model, who, why)

    # On first use

    @cached_property
    def _client(self) -> "mlflow.MlflowClient":
        return self._new_client(self._url)

    @cached_property
    def _registry(self) -> ModelRegistry:
        return ModelRegistry(self._client, self._default_model, self._cache_dir)

    @cached_property
    def _experiments(self) -> Experiments:
        return Experiments(self._client, self._experiment_name)

    @cached_property
    def _shipper(self) -> Shipper:
        return Shipper(self._client)


def _logged_model(run_id: str) -> dict[str, Any]:
    """What MLflow's own clients write of a model; its flavor, the library that loads it, is this one."""
    when = datetime.now(UTC).replace(tzinfo=None).isoformat(sep=" ")
    flavors = {"seqae": {"version": version("seqae")}}
    return {"run_id": run_id, "artifact_path": ARTIFACT_PATH, "utc_time_created": when, "flavors": flavors}


def _run_name(name: str, job_id: str) -> str:
    """Tells runs apart whose jobs have the same name: with the beginning of the id, by which commands find the job."""
    return f"{name[:_MAX_NAME_LENGTH]} ({job_id.removeprefix('job_')[:6]})"


def _trial_name(trial: int, drawn: Mapping[str, Any]) -> str:
    """Tells trials apart by what they drew."""
    values = (f"{name.rpartition('.')[2]}={_short(value)}" for name, value in drawn.items())
    return f"trial {trial}: {', '.join(values)}"[:_MAX_NAME_LENGTH] if drawn else f"trial {trial}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _note(job_id: str, experiment_id: str) -> str:
    table = table_path(experiment_id).removeprefix("/")
    return f"Job `{job_id}`. [Compare it with the other runs of this model]({table})"
