"""The tracking server behind the `Tracking` protocol: MLflow. The only module that imports mlflow, and lazily.

What is sent is a projection of the job folders, so everything here may be repeated, late, or done by someone else.
"""

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from jobs.backends.provenance import provenance
from jobs.directory.layout import JobFolder
from jobs.directory.records import MetricRow, NoteKind, TrialRow, TrialState
from jobs.errors import NoModel, NoRun, TrackingUnavailable
from jobs.interfaces import ModelVersion, OpenRun, RunRef, RunStatus
from jobs.specs import SelectionMetric

if TYPE_CHECKING:
    import mlflow

__all__ = ["MlflowTracking"]

_CHAMPION = "champion"
_JOB = "seqae.job_id"
_TRIAL = "seqae.trial"
_PARENT = "mlflow.parentRunId"
_METRICS = "seqae.metrics"
_EVALUATION_SET = "seqae.evaluation_set"
_DATASET = "seqae.dataset"

# A trial that the search stopped early has not failed.
_TRIAL_STATUS = {
    TrialState.SUCCEEDED: RunStatus.FINISHED,
    TrialState.STOPPED: RunStatus.KILLED,
    TrialState.FAILED: RunStatus.FAILED,
}

_IMPORTING = threading.Lock()

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
        model_name: all models are versions of this one.
    """

    def __init__(
        self,
        url: str,
        cache_dir: Path,
        public_url: str | None = None,
        experiment: str = "seqae",
        model_name: str = "seqae",
    ) -> None:
        self._url = url
        self._public_url = (public_url or url).rstrip("/")
        self._cache_dir = cache_dir
        self._experiment_name = experiment
        self._model_name = model_name

    # Runs

    def create_run(self, job_id: str, name: str, kind: str, params: Mapping[str, Any]) -> RunRef:
        tags = {_JOB: job_id, "seqae.kind": kind, **provenance()}
        return self._make_run(
            f"tags.`{_JOB}` = '{job_id}'", lambda run: _PARENT not in run.data.tags, name, tags, params
        )

    def create_trial_run(self, parent_run_id: str, trial: int, params: Mapping[str, Any]) -> RunRef:
        tags = {_PARENT: parent_run_id, _TRIAL: str(trial), **provenance()}
        query = f"tags.`{_PARENT}` = '{parent_run_id}' and tags.`{_TRIAL}` = '{trial}'"
        return self._make_run(query, lambda _: True, f"trial {trial}", tags, params)

    def close_run(self, run_id: str, status: RunStatus) -> None:
        with _answers():
            children = self._search(f"tags.`{_PARENT}` = '{run_id}' and attributes.status = 'RUNNING'")
            for run in [*children, self._client.get_run(run_id)]:
                if run.info.status == "RUNNING":
                    self._client.set_terminated(run.info.run_id, status.value)

    def open_runs(self) -> list[OpenRun]:
        with _answers():
            runs = self._search("attributes.status = 'RUNNING'")
        mine = (run for run in runs if _JOB in run.data.tags and _PARENT not in run.data.tags)
        return [OpenRun(run.info.run_id, run.data.tags[_JOB]) for run in mine]

    def ship(self, job_dir: Path, run_id: str) -> None:
        folder = JobFolder(job_dir)
        self._ship_folder(folder, run_id)
        for index, row in folder.trials().items():
            trial = folder.trial(index)
            if row.state is not TrialState.PENDING and trial.read_shipped().get("closed_below") != run_id:
                self._ship_trial(trial, row, run_id)

    def _ship_trial(self, trial: JobFolder, row: TrialRow, parent_run_id: str) -> None:
        run_id = self.create_trial_run(parent_run_id, row.trial, row.params).run_id
        self._ship_folder(trial, run_id)
        if row.is_over:
            self.close_run(run_id, _TRIAL_STATUS[row.state])
            trial.write_shipped(trial.read_shipped() | {"closed_below": parent_run_id})

    def _ship_folder(self, folder: JobFolder, run_id: str) -> None:
        # Two shippers of one folder would each send what the other has not yet recorded as sent.
        with FileLock(folder.path / "shipped.lock"), _answers():
            shipped = folder.read_shipped()
            if shipped.get("run_id", run_id) != run_id:
                # The server had lost the run, and this is the one that was made in its place: it has nothing yet.
                shipped = {}
            shipped["run_id"] = run_id
            steps: dict[str, int] = shipped.setdefault("steps", {})
            for rows in _batches(folder.history(after=steps)):
                self._client.log_batch(run_id, metrics=_entities(rows))
                for row in rows:
                    steps.update(dict.fromkeys(row.metrics, row.step))
                folder.write_shipped(shipped)
            for step, path in _new_frames(folder, shipped.get("frames", -1)):
                self._log_frame(run_id, step, path)
                shipped["frames"] = step
                folder.write_shipped(shipped)
            for path in _new_artifacts(folder, shipped.get("artifacts", [])):
                self._client.log_artifact(run_id, str(path))
                shipped.setdefault("artifacts", []).append(path.name)
                folder.write_shipped(shipped)
            if _DATASET not in shipped and (dataset := _dataset(folder)):
                self._client.set_tag(run_id, _DATASET, dataset)
                shipped[_DATASET] = dataset
                folder.write_shipped(shipped)

    # Models

    def register(
        self, job_id: str, run_id: str, checkpoint_dir: Path, metrics: Mapping[str, float], evaluation_set: str
    ) -> ModelVersion:
        with _answers():
            self._ensure_model()
            made = self._client.search_model_versions(f"name = '{self._model_name}' and run_id = '{run_id}'")
            if not made:
                self._client.log_artifacts(run_id, str(checkpoint_dir), "model")
                tags = {_JOB: job_id, _METRICS: json.dumps(dict(metrics)), _EVALUATION_SET: evaluation_set}
                source = f"runs:/{run_id}/model"
                made = [
                    self._client.create_model_version(self._model_name, source, run_id, tags=tags, await_creation_for=0)
                ]
            entity = min(made, key=lambda version: int(version.version))
            champion = self._champion()
            if champion is None or _is_better(entity, champion):
                self._client.set_registered_model_alias(self._model_name, _CHAMPION, entity.version)
            return _model_version(self._client.get_model_version(self._model_name, entity.version), checkpoint_dir)

    def resolve(self, selector: str) -> ModelVersion:
        with _answers():
            entity = self._find(selector)
            if entity is None:
                raise NoModel(f"no registered model answers to {selector!r}")
            return _model_version(entity, self._files(entity))

    def _find(self, selector: str) -> Any:
        if selector == _CHAMPION:
            return self._champion()
        if selector.isascii() and selector.isdecimal():
            return self._or_none(lambda: self._client.get_model_version(self._model_name, selector))
        if not selector.replace("_", "").isalnum():
            return None
        found = self._client.search_model_versions(f"name = '{self._model_name}' and tags.`{_JOB}` = '{selector}'")
        return min(found, key=lambda version: int(version.version), default=None)

    def _champion(self) -> Any:
        return self._or_none(lambda: self._client.get_model_version_by_alias(self._model_name, _CHAMPION))

    def _files(self, entity: Any) -> Path:
        """The model's files, downloaded once."""
        local = self._cache_dir / f"{entity.run_id}-{entity.version}"
        if not local.exists():
            self._cache_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._cache_dir) as temporary:
                downloaded = Path(self._client.download_artifacts(entity.run_id, "model", temporary))
                # Another process may have come first; its files are the same.
                if not local.exists():
                    downloaded.rename(local)
        return local

    # Plumbing

    @cached_property
    def _client(self) -> "mlflow.MlflowClient":
        # MLflow takes these from the environment only; its defaults would hold a caller for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        return _mlflow().MlflowClient(self._url, self._url)

    @cached_property
    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment_name)
        if found is None:
            _unless_exists(lambda: self._client.create_experiment(self._experiment_name))
            found = self._client.get_experiment_by_name(self._experiment_name)
        return str(found.experiment_id)

    def _ensure_model(self) -> None:
        _unless_exists(lambda: self._client.create_registered_model(self._model_name))

    def _make_run(
        self, query: str, chosen: Callable[[Any], bool], name: str, tags: dict[str, str], params: Mapping[str, Any]
    ) -> RunRef:
        with _answers():
            found = [run for run in self._search(query) if chosen(run)]
            run = found[0] if found else self._client.create_run(self._experiment, tags=tags, run_name=name)
            items = [_mlflow().entities.Param(key, str(value)[:_MAX_PARAM_LENGTH]) for key, value in params.items()]
            # Sent for a run that was found too: a crash may have come between, and the same params again are harmless.
            for start in range(0, len(items), _MAX_PARAMS):
                self._client.log_batch(run.info.run_id, params=items[start : start + _MAX_PARAMS])
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

    def _log_frame(self, run_id: str, step: int, path: Path) -> None:
        from PIL import Image

        # MLflow names images at random: the list of them tells whether a crash came between sending and recording it.
        sent = (item.path for item in self._client.list_artifacts(run_id, "images"))
        if not any(f"+step+{step}+" in name for name in sent):
            with Image.open(path) as image:
                self._client.log_image(run_id, image, key="frames", step=step)

    @staticmethod
    def _or_none(get: Callable[[], Any]) -> Any:
        try:
            return get()
        except _mlflow().exceptions.MlflowException as error:
            # An unknown alias is told as an invalid value.
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise


def _mlflow() -> Any:
    """MLflow, which takes seconds to import, by the first thread that needs it while the others wait.

    Two threads that import parts of it at once see each other's half-made modules, and then it can't be imported again.
    """
    with _IMPORTING:
        import mlflow
        import mlflow.entities
        import mlflow.exceptions

        return mlflow


@contextmanager
def _answers() -> Iterator[None]:
    import requests

    try:
        yield
    except (_mlflow().exceptions.MlflowException, requests.RequestException) as error:
        text = f"the tracking server: {error}"
        if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
            raise NoRun(text) from error
        raise TrackingUnavailable(text) from error


def _unless_exists(create: Callable[[], Any]) -> None:
    try:
        create()
    except _mlflow().exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _batches(rows: Iterator[MetricRow]) -> Iterator[list[MetricRow]]:
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


def _entities(rows: Sequence[MetricRow]) -> list[Any]:
    metric = _mlflow().entities.Metric
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


def _model_version(entity: Any, path: Path) -> ModelVersion:
    return ModelVersion(
        name=entity.name,
        version=str(entity.version),
        run_id=entity.run_id,
        job_id=entity.tags[_JOB],
        path=path,
        metrics=json.loads(entity.tags[_METRICS]),
        is_champion=_CHAMPION in entity.aliases,
    )


def _is_better(entity: Any, champion: Any) -> bool:
    if entity.tags[_EVALUATION_SET] != champion.tags[_EVALUATION_SET]:
        return False
    value, best = (json.loads(each.tags[_METRICS])[SelectionMetric.TEST_MSE] for each in (entity, champion))
    return SelectionMetric.TEST_MSE.is_better(value, best)
