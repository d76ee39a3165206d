"""MLflow behind the `Tracking` protocol: runs, metrics and artifacts; models through `jobs.backends.mlflow_registry`.

What is sent is a projection of the job folders, so everything here may be repeated, late, or done by someone else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from jobs.backends.mlflow_client import JOB_TAG, create_unless_exists, import_mlflow, mapped_errors, new_client
from jobs.backends.mlflow_registry import ModelRegistry
from jobs.backends.provenance import provenance
from jobs.directory.layout import JobFolder
from jobs.directory.records import EvaluationReport, MetricRow, NoteKind, Shipped, TrialRow, TrialState
from jobs.interfaces import ModelVersion, OpenRun, RegisteredModel, Registration, RunRef, RunStatus

if TYPE_CHECKING:
    import mlflow

__all__ = ["MlflowTracking"]

_KIND_TAG = "seqae.kind"
_TRIAL_TAG = "seqae.trial"
_DATASET_TAG = "seqae.dataset"
_PARENT_TAG = "mlflow.parentRunId"

# A trial that the search stopped early has not failed.
_TRIAL_STATUS = {
    TrialState.SUCCEEDED: RunStatus.FINISHED,
    TrialState.STOPPED: RunStatus.KILLED,
    TrialState.FAILED: RunStatus.FAILED,
}

# The server's own limits on one call.
_MAX_METRICS = 1000
_MAX_PARAMS = 100
_MAX_PARAM_LENGTH = 6000


class MlflowTracking:
    """Runs, metrics and models on an MLflow server.

    Args:
        url: of the server.
        cache_dir: downloaded models are kept here.
        public_url: where people's browsers reach the server, when that is not `url`.
        experiment: all runs are made in this one.
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

    def create_run(self, job_id: str, name: str, kind: str, params: Mapping[str, Any]) -> RunRef:
        """See `jobs.interfaces.Tracking.create_run`."""
        tags = {JOB_TAG: job_id, _KIND_TAG: kind, **provenance()}
        return self._find_or_create_run(
            f"tags.`{JOB_TAG}` = '{job_id}'", lambda run: _PARENT_TAG not in run.data.tags, name, tags, params
        )

    def create_trial_run(self, parent_run_id: str, trial: int, params: Mapping[str, Any]) -> RunRef:
        """See `jobs.interfaces.Tracking.create_trial_run`."""
        tags = {_PARENT_TAG: parent_run_id, _TRIAL_TAG: str(trial), **provenance()}
        query = f"tags.`{_PARENT_TAG}` = '{parent_run_id}' and tags.`{_TRIAL_TAG}` = '{trial}'"
        return self._find_or_create_run(query, lambda _: True, f"trial {trial}", tags, params)

    def close_run(self, run_id: str, status: RunStatus) -> None:
        """See `jobs.interfaces.Tracking.close_run`."""
        with mapped_errors():
            children = self._search(f"tags.`{_PARENT_TAG}` = '{run_id}' and attributes.status = 'RUNNING'")
            for run in [*children, self._client.get_run(run_id)]:
                if run.info.status == "RUNNING":
                    self._client.set_terminated(run.info.run_id, status.value)

    def open_runs(self) -> list[OpenRun]:
        """See `jobs.interfaces.Tracking.open_runs`."""
        with mapped_errors():
            runs = self._search("attributes.status = 'RUNNING'")
        own = (run for run in runs if JOB_TAG in run.data.tags and _PARENT_TAG not in run.data.tags)
        return [OpenRun(run.info.run_id, run.data.tags[JOB_TAG]) for run in own]

    def _find_or_create_run(
        self, query: str, matches: Callable[[Any], bool], name: str, tags: dict[str, str], params: Mapping[str, Any]
    ) -> RunRef:
        with mapped_errors():
            found = [run for run in self._search(query) if matches(run)]
            run = found[0] if found else self._client.create_run(self._experiment, tags=tags, run_name=name)
            new_param = import_mlflow().entities.Param
            entities = [new_param(key, str(value)[:_MAX_PARAM_LENGTH]) for key, value in params.items()]
            # Sent for a run that was found too: a crash may have come between, and the same params again are harmless.
            for start in range(0, len(entities), _MAX_PARAMS):
                self._client.log_batch(run.info.run_id, params=entities[start : start + _MAX_PARAMS])
        run_id = str(run.info.run_id)
        return RunRef(run_id, f"{self._public_url}/#/experiments/{self._experiment}/runs/{run_id}")

    def _search(self, query: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment], query, max_results=1000, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                return found

    # Shipping

    def ship(self, job_dir: Path, run_id: str) -> None:
        """See `jobs.interfaces.Tracking.ship`."""
        folder = JobFolder(job_dir)
        self._ship_folder(folder, run_id)
        for index, row in folder.trials().items():
            trial = folder.trial(index)
            if row.state is not TrialState.PENDING and trial.read_shipped().closed_below != run_id:
                self._ship_trial(trial, row, run_id)

    def _ship_trial(self, trial: JobFolder, row: TrialRow, parent_run_id: str) -> None:
        run_id = self.create_trial_run(parent_run_id, row.trial, row.params).run_id
        self._ship_folder(trial, run_id)
        if row.is_over:
            self.close_run(run_id, _TRIAL_STATUS[row.state])
            shipped = trial.read_shipped()
            shipped.closed_below = parent_run_id
            trial.write_shipped(shipped)

    def _ship_folder(self, folder: JobFolder, run_id: str) -> None:
        # Two shippers of one folder would each send what the other has not yet recorded as sent.
        with FileLock(folder.path / "shipped.lock"), mapped_errors():
            shipped = folder.read_shipped()
            if shipped.run_id not in (None, run_id):
                # The server had lost the run, and this is the one that was made in its place: it has nothing yet.
                shipped = Shipped()
            shipped.run_id = run_id
            self._ship_metrics(folder, run_id, shipped)
            self._ship_files(folder, run_id, shipped)
            if shipped.dataset is None and (dataset := _dataset(folder)):
                self._client.set_tag(run_id, _DATASET_TAG, dataset)
                shipped.dataset = dataset
                folder.write_shipped(shipped)

    def _ship_metrics(self, folder: JobFolder, run_id: str, shipped: Shipped) -> None:
        for rows in _batches(folder.history(after=shipped.steps)):
            self._client.log_batch(run_id, metrics=_metric_entities(rows))
            for row in rows:
                shipped.steps.update(dict.fromkeys(row.metrics, row.step))
            folder.write_shipped(shipped)

    def _ship_files(self, folder: JobFolder, run_id: str, shipped: Shipped) -> None:
        for step, path in _new_frames(folder, shipped.frames):
            self._log_frame(run_id, step, path)
            shipped.frames = step
            folder.write_shipped(shipped)
        for path in _new_artifacts(folder, shipped.artifacts):
            self._client.log_artifact(run_id, str(path))
            shipped.artifacts.append(path.name)
            folder.write_shipped(shipped)

    def _log_frame(self, run_id: str, step: int, path: Path) -> None:
        from PIL import Image

        # MLflow names images at random: the list of them tells whether a crash came between sending and recording it.
        sent = (item.path for item in self._client.list_artifacts(run_id, "images"))
        if not any(f"+step+{step}+" in name for name in sent):
            with Image.open(path) as image:
                self._client.log_image(run_id, image, key="frames", step=step)

    # Models

    def register(
        self,
        job_id: str,
        run_id: str,
        model: str,
        checkpoint_dir: Path,
        metrics: Mapping[str, float],
        report: EvaluationReport | None,
    ) -> Registration:
        """See `jobs.interfaces.Tracking.register`."""
        with mapped_errors():
            return self._registry.register(job_id, run_id, model, checkpoint_dir, metrics, report)

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
    def _experiment(self) -> str:
        """Id of the experiment, which is made when it is missing."""
        found = self._client.get_experiment_by_name(self._experiment_name)
        if found is None:
            create_unless_exists(lambda: self._client.create_experiment(self._experiment_name))
            found = self._client.get_experiment_by_name(self._experiment_name)
        return str(found.experiment_id)


def _batches(rows: Iterator[MetricRow]) -> Iterator[list[MetricRow]]:
    """Rows in lists of as many points as one call may send."""
    batch: list[MetricRow] = []
    size = 0
    for row in rows:
        if size + len(row.metrics) > _MAX_METRICS:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row.metrics)
    if batch:
        yield batch


def _metric_entities(rows: Sequence[MetricRow]) -> list[Any]:
    metric = import_mlflow().entities.Metric
    return [metric(name, value, int(row.time * 1000), row.step) for row in rows for name, value in row.metrics.items()]


def _new_frames(folder: JobFolder, after: int) -> list[tuple[int, Path]]:
    found = {step: attempt.frames / f"{step}.png" for attempt in folder.attempts() for step in attempt.frame_steps()}
    return sorted((step, path) for step, path in found.items() if step > after)


def _new_artifacts(folder: JobFolder, sent: Sequence[str]) -> list[Path]:
    """Those of the newest attempt that has one of that name. Writers of artifacts put them there whole."""
    found = {path.name: path for attempt in folder.attempts() for path in attempt.artifacts.glob("[!.]*")}
    return [path for name, path in sorted(found.items()) if name not in sent]


def _dataset(folder: JobFolder) -> str | None:
    notes = (note for attempt in folder.attempts() for note in attempt.notes())
    return next((note.text for note in notes if note.kind is NoteKind.DATA), None)
