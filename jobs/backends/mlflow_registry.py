"""Registered models in MLflow's model registry: versions, and the aliases of champion, challenger and previous."""

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from jobs.backends.mlflow_client import JOB_TAG, create_unless_exists, import_mlflow, none_if_unknown
from jobs.directory.records import EvaluationReport
from jobs.errors import NoModel
from jobs.interfaces import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    ModelVersion,
    PromotionRecord,
    RegisteredModel,
    Registration,
    VersionInfo,
)
from jobs.promotion import Champion, Promotion, decide
from seqae.checkpoints.manifest import verify
from seqae.errors import CheckpointError
from seqae.evaluation.names import modern

if TYPE_CHECKING:
    import mlflow

__all__ = ["ARTIFACT_PATH", "ModelRegistry"]

_METRICS_TAG = "seqae.metrics"
_EVALUATION_SET_TAG = "seqae.evaluation_set"
_SCORING_VERSION_TAG = "seqae.scoring_version"
_PROMOTION_TAG = "seqae.promotion"
_HISTORY_TAG = "seqae.promotions"
ARTIFACT_PATH = "model"
"""Folder of the model's files among the artifacts of its run."""
_REPORT_PATH = "evaluation"
"""Folder of the evaluation report among them."""
_REPORT_FILE = "test.json"
_HISTORY_KEPT = 20
_MAX_TAG = 4_500
"""Characters of a tag that the server surely keeps."""

_metrics_of: TypeAdapter[dict[str, float]] = TypeAdapter(dict[str, float])
_history_of: TypeAdapter[list[PromotionRecord]] = TypeAdapter(list[PromotionRecord])


class ModelRegistry:
    """All registered models of one MLflow server. Its methods raise MLflow's own errors.

    People move aliases, delete versions and register models of their own in MLflow's page: a version without our tags
    is not ours, and is neither served nor compared; tags that can't be read count as missing.

    Args:
        client: of the server.
        default_model: what `champion` and bare version numbers mean; empty: the model that was promoted last.
        cache_dir: downloaded models are kept here.
    """

    def __init__(self, client: "mlflow.MlflowClient", default_model: str, cache_dir: Path) -> None:
        self._client = client
        self._default_model = default_model
        self._cache_dir = cache_dir

    # Making versions

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
        create_unless_exists(lambda: self._client.create_registered_model(model))
        known = self._client.search_model_versions(f"name = '{model}' and run_id = '{run_id}'")
        if known:
            entity = _oldest(known)
        else:
            entity = self._create_version(job_id, run_id, model, checkpoint_dir, metrics, report)
        promotion = _promotion(entity)
        if promotion is None and decided is not None:
            self._keep_decision(entity, promotion := decided)
        elif promotion is None:
            promotion = self._decide(entity, report)
        entity = self._client.get_model_version(model, entity.version)
        return Registration(_model_version(entity, checkpoint_dir), promotion)

    def _create_version(
        self,
        job_id: str,
        run_id: str,
        model: str,
        checkpoint_dir: Path,
        metrics: Mapping[str, float],
        report: EvaluationReport | None,
    ) -> Any:
        self._client.log_artifacts(run_id, str(checkpoint_dir), ARTIFACT_PATH)
        tags = {JOB_TAG: job_id, _METRICS_TAG: json.dumps(dict(metrics))}
        if report is not None:
            tags[_EVALUATION_SET_TAG] = report.test_checksum
            tags[_SCORING_VERSION_TAG] = str(report.scoring_version)
            self._client.log_text(run_id, report.model_dump_json(), f"{_REPORT_PATH}/{_REPORT_FILE}")
        source = f"runs:/{run_id}/{ARTIFACT_PATH}"
        return self._client.create_model_version(model, source, run_id, tags=tags, await_creation_for=0)

    def _decide(self, entity: Any, report: EvaluationReport | None) -> Promotion:
        """Applies the promotion rule to a new version, once; the decision is written last."""
        alias = self._alias(entity.name, CHAMPION)
        if alias is not None and alias.version == entity.version:
            # An earlier call got as far as this.
            promotion = Promotion(promoted=True, reason="promoted when its job ended")
        else:
            promotion = decide(report, self._champion_of(alias))
            if alias is not None and not _is_ours(alias):
                reason = f"{promotion.reason}; the champion was version {alias.version}, which was not made here"
                promotion = promotion.model_copy(update={"reason": reason})
            if promotion.promoted:
                self._move_champion(entity.name, entity.version, "", promotion.reason)
            else:
                self._client.set_registered_model_alias(entity.name, CHALLENGER, entity.version)
        self._keep_decision(entity, promotion)
        return promotion

    def _keep_decision(self, entity: Any, promotion: Promotion) -> None:
        text = promotion.model_dump_json()
        if len(text) > _MAX_TAG:
            text = promotion.model_copy(update={"scores": {}}).model_dump_json()[:_MAX_TAG]
        self._client.set_model_version_tag(entity.name, entity.version, _PROMOTION_TAG, text)

    def _champion_of(self, entity: Any) -> Champion | None:
        if entity is None or not _is_ours(entity):
            return None
        return Champion(
            name=entity.name, version=str(entity.version), run_id=entity.run_id, report=self._report(entity.run_id)
        )

    def _report(self, run_id: str) -> EvaluationReport | None:
        """The evaluation report of a run; None where it has none that this release can read."""
        with tempfile.TemporaryDirectory() as temporary:
            try:
                path = self._client.download_artifacts(run_id, f"{_REPORT_PATH}/{_REPORT_FILE}", temporary)
                return EvaluationReport.model_validate_json(Path(path).read_bytes())
            except (import_mlflow().exceptions.MlflowException, OSError) as error:
                if not _is_missing(error):
                    raise
            except ValidationError:
                return None  # another release's: it counts as none, and the rule says so
        return None

    # Finding versions

    def resolve(self, selector: str) -> ModelVersion:
        """See `jobs.interfaces.Tracking.resolve`."""
        entity = self._find(selector)
        if entity is None:
            raise NoModel(f"no registered model answers to {selector!r}")
        if not _is_ours(entity):
            raise NoModel(f"version {entity.version} of {entity.name} was not made here, and can't be served")
        return _model_version(entity, self._download(entity))

    def _find(self, selector: str) -> Any:
        name, slash, version = selector.rpartition("/")
        if slash:
            return self._version(name, version)
        name, at, alias = selector.rpartition("@")
        if at:
            return self._alias(name, alias)
        if selector == CHAMPION:
            return self._alias(self.default_model(), CHAMPION)
        if selector.isascii() and selector.isdecimal():
            return self._version(self.default_model(), selector)
        # Anything else could end the quotes of the query.
        if selector.startswith("job_") and selector.replace("_", "").isalnum():
            found = self._client.search_model_versions(f"tags.`{JOB_TAG}` = '{selector}'")
            # Asked for again: a search leaves the aliases out.
            return self._version(_oldest(found).name, str(_oldest(found).version)) if found else None
        return self._alias(selector, CHAMPION)

    def default_model(self) -> str:
        """Name of the model that is meant where none is named; empty where there is none."""
        if self._default_model:
            return self._default_model
        models = self.models()
        dated = [(at, model.name) for model in models if (at := model.promoted_at) is not None]
        # Where people have moved every champion's alias to versions of their own, that is what is to be said.
        named = [model.name for model in models if model.with_alias(CHAMPION) is not None]
        return max(dated)[1] if dated else (named or [""])[-1]

    def models(self) -> list[RegisteredModel]:
        """See `jobs.interfaces.Tracking.models`."""
        found = []
        for entity in _pages(self._client.search_registered_models):
            # Neither versions nor aliases are whole in the answer to a search.
            versions = _pages(self._client.search_model_versions, f"name = '{entity.name}'", max_results=200)
            infos = [_info(version) for version in versions]
            if any(info.job_id for info in infos):
                infos.sort(key=lambda info: int(info.version), reverse=True)
                found.append(RegisteredModel(entity.name, _with_aliases(infos, entity), _history(entity)))
        return sorted(found, key=lambda model: model.name)

    def _alias(self, model: str, alias: str) -> Any:
        if not model:
            return None
        return none_if_unknown(lambda: self._client.get_model_version_by_alias(model, alias))

    def _version(self, model: str, version: str) -> Any:
        if not model or not (version.isascii() and version.isdecimal()):
            return None
        return none_if_unknown(lambda: self._client.get_model_version(model, version))

    def _download(self, entity: Any) -> Path:
        """Folder of the model's files, downloaded once. Raises: NoModel where they are gone."""
        local = self._cache_dir / f"{entity.run_id}-{entity.version}"
        if local.exists():
            with suppress(OSError):
                os.utime(local)  # which of many may be removed is seen by when they were last used
            return local
        self._cache_dir.mkdir(parents=True, exist_ok=True)
        files = f"the files of version {entity.version} of {entity.name}"
        with tempfile.TemporaryDirectory(dir=self._cache_dir) as temporary:
            try:
                downloaded = Path(self._client.download_artifacts(entity.run_id, ARTIFACT_PATH, temporary))
                verify(downloaded)
            except (import_mlflow().exceptions.MlflowException, OSError) as error:
                if not _is_missing(error):
                    raise
                raise NoModel(f"{files} are missing in MLflow") from error
            except CheckpointError as error:
                reason = str(error).removeprefix(f"{temporary}/{ARTIFACT_PATH}").lstrip("/: ")
                raise NoModel(f"{files} can't be used: {reason}") from error
            # Another process may have come first; its files are the same.
            if not local.exists():
                downloaded.rename(local)
        return local

    # Moving the champion's alias

    def promote(self, model: str, version: str, who: str, why: str) -> None:
        """See `jobs.interfaces.Tracking.promote`."""
        entity = self._version(model, version)
        if entity is None or not _is_ours(entity):
            raise NoModel(f"{model} has no version {version} that was made here")
        self._move_champion(model, str(entity.version), who, why)

    def rollback(self, model: str, who: str, why: str) -> None:
        """See `jobs.interfaces.Tracking.rollback`."""
        before = self._alias(model, PREVIOUS)
        if before is None or not _is_ours(before):
            raise NoModel(f"{model} has no earlier champion to go back to")
        self._move_champion(model, str(before.version), who, why)

    def _move_champion(self, model: str, version: str, who: str, why: str) -> None:
        champion, challenger = self._alias(model, CHAMPION), self._alias(model, CHALLENGER)
        if champion is not None and str(champion.version) != version and _is_ours(champion):
            self._client.set_registered_model_alias(model, PREVIOUS, champion.version)
        self._client.set_registered_model_alias(model, CHAMPION, version)
        if challenger is not None and str(challenger.version) == version:
            self._client.delete_registered_model_alias(model, CHALLENGER)
        move = PromotionRecord(version, who, why[:500], datetime.now(UTC))
        history = [move, *_history(self._client.get_registered_model(model))][:_HISTORY_KEPT]
        while len(text := _history_of.dump_json(history).decode()) > _MAX_TAG:
            history.pop()
        self._client.set_registered_model_tag(model, _HISTORY_TAG, text)


def _pages(search: Any, *query: str, **options: Any) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = search(*query, page_token=token, **options)
        found.extend(page)
        token = page.token
        if not token:
            return found


def _oldest(entities: Any) -> Any:
    return min(entities, key=lambda version: int(version.version))


def _is_ours(entity: Any) -> bool:
    return JOB_TAG in entity.tags


def _is_missing(error: Exception) -> bool:
    """Whether an error says that there is no such file, and not that the server has a fault."""
    if isinstance(error, FileNotFoundError):
        return True
    status = getattr(error, "get_http_status_code", lambda: None)()
    return status in (400, 404) or getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def _metrics(entity: Any) -> dict[str, float]:
    try:
        return modern(_metrics_of.validate_json(entity.tags.get(_METRICS_TAG, "{}")))
    except ValidationError:
        return {}


def _promotion(entity: Any) -> Promotion | None:
    text = entity.tags.get(_PROMOTION_TAG)
    try:
        return None if text is None else Promotion.model_validate_json(text)
    except ValidationError:
        return None


def _history(entity: Any) -> tuple[PromotionRecord, ...]:
    try:
        return tuple(_history_of.validate_json(entity.tags.get(_HISTORY_TAG, "[]")))
    except ValidationError:
        return ()


def _info(entity: Any) -> VersionInfo:
    created = entity.creation_timestamp
    return VersionInfo(
        version=str(entity.version),
        run_id=entity.run_id or "",
        job_id=entity.tags.get(JOB_TAG),
        metrics=_metrics(entity),
        aliases=tuple(entity.aliases),
        created_at=None if created is None else datetime.fromtimestamp(created / 1000, UTC),
        promotion=_promotion(entity),
    )


def _with_aliases(infos: list[VersionInfo], entity: Any) -> tuple[VersionInfo, ...]:
    """Versions with the aliases that the model itself names: those of a search's answer are not filled in."""
    by_version: dict[str, list[str]] = {}
    for alias, version in dict(entity.aliases).items():
        by_version.setdefault(str(version), []).append(alias)
    return tuple(replace(info, aliases=tuple(sorted(by_version.get(info.version, [])))) for info in infos)


def _scoring_version(tag: str) -> int:
    """The version in a tag; 0, which is that of no release, where someone wrote something else into it."""
    return int(tag) if tag.isascii() and tag.isdecimal() and len(tag) < 10 else 0


def _model_version(entity: Any, path: Path) -> ModelVersion:
    return ModelVersion(
        name=entity.name,
        version=str(entity.version),
        run_id=entity.run_id,
        job_id=entity.tags[JOB_TAG],
        path=path,
        metrics=_metrics(entity),
        is_champion=CHAMPION in entity.aliases,
        test_checksum=entity.tags.get(_EVALUATION_SET_TAG),
        scoring_version=_scoring_version(entity.tags.get(_SCORING_VERSION_TAG, "1")),
    )
