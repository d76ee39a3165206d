"""Model versions in MLflow's model registry, and the alias of the champion."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.backends.mlflow_client import JOB_TAG, create_unless_exists, none_if_unknown
from jobs.errors import NoModel
from jobs.interfaces import ModelVersion
from seqae.evaluation.names import modern

if TYPE_CHECKING:
    import mlflow

__all__ = ["ModelRegistry"]

_CHAMPION = "champion"
_METRICS_TAG = "seqae.metrics"
_EVALUATION_SET_TAG = "seqae.evaluation_set"
_ARTIFACT_PATH = "model"
"""Folder of the model's files among the artifacts of its run."""


class ModelRegistry:
    """The versions of one registered model. Its methods raise MLflow's own errors.

    Args:
        client: of the server.
        model_name: all models are versions of this one.
        cache_dir: downloaded models are kept here.
    """

    def __init__(self, client: "mlflow.MlflowClient", model_name: str, cache_dir: Path) -> None:
        self._client = client
        self._model_name = model_name
        self._cache_dir = cache_dir

    def register(
        self, job_id: str, run_id: str, checkpoint_dir: Path, metrics: Mapping[str, float], evaluation_set: str
    ) -> ModelVersion:
        """See `jobs.interfaces.Tracking.register`."""
        create_unless_exists(lambda: self._client.create_registered_model(self._model_name))
        known = self._client.search_model_versions(f"name = '{self._model_name}' and run_id = '{run_id}'")
        if known:
            entity = _oldest(known)
        else:
            self._client.log_artifacts(run_id, str(checkpoint_dir), _ARTIFACT_PATH)
            tags = {JOB_TAG: job_id, _METRICS_TAG: json.dumps(dict(metrics)), _EVALUATION_SET_TAG: evaluation_set}
            source = f"runs:/{run_id}/{_ARTIFACT_PATH}"
            entity = self._client.create_model_version(
                self._model_name, source, run_id, tags=tags, await_creation_for=0
            )
        champion = self._champion()
        if champion is None or _is_better(entity, champion):
            self._client.set_registered_model_alias(self._model_name, _CHAMPION, entity.version)
        return _model_version(self._client.get_model_version(self._model_name, entity.version), checkpoint_dir)

    def resolve(self, selector: str) -> ModelVersion:
        """See `jobs.interfaces.Tracking.resolve`.

        Raises:
            NoModel: no version answers to the selector.
        """
        entity = self._find(selector)
        if entity is None:
            raise NoModel(f"no registered model answers to {selector!r}")
        return _model_version(entity, self._download(entity))

    def _find(self, selector: str) -> Any:
        if selector == _CHAMPION:
            return self._champion()
        if selector.isascii() and selector.isdecimal():
            return none_if_unknown(lambda: self._client.get_model_version(self._model_name, selector))
        # A job's id; anything else could end the quotes of the query.
        if not selector.replace("_", "").isalnum():
            return None
        found = self._client.search_model_versions(f"name = '{self._model_name}' and tags.`{JOB_TAG}` = '{selector}'")
        return _oldest(found) if found else None

    def _champion(self) -> Any:
        return none_if_unknown(lambda: self._client.get_model_version_by_alias(self._model_name, _CHAMPION))

    def _download(self, entity: Any) -> Path:
        """Folder of the model's files, downloaded once."""
        local = self._cache_dir / f"{entity.run_id}-{entity.version}"
        if not local.exists():
            self._cache_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._cache_dir) as temporary:
                downloaded = Path(self._client.download_artifacts(entity.run_id, _ARTIFACT_PATH, temporary))
                # Another process may have come first; its files are the same.
                if not local.exists():
                    downloaded.rename(local)
        return local


def _oldest(entities: Any) -> Any:
    return min(entities, key=lambda version: int(version.version))


def _model_version(entity: Any, path: Path) -> ModelVersion:
    return ModelVersion(
        name=entity.name,
        version=str(entity.version),
        run_id=entity.run_id,
        job_id=entity.tags[JOB_TAG],
        path=path,
        metrics=modern(json.loads(entity.tags[_METRICS_TAG])),
        is_champion=_CHAMPION in entity.aliases,
    )


def _is_better(entity: Any, champion: Any) -> bool:
    if entity.tags[_EVALUATION_SET_TAG] != champion.tags[_EVALUATION_SET_TAG]:
        return False
    value, best = (modern(json.loads(each.tags[_METRICS_TAG]))["test/mse"] for each in (entity, champion))
    return value < best
