"""Model versions and the champion, by a registry in memory. That a real server takes them is tested with one."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST

from jobs.backends.mlflow_registry import ModelRegistry
from jobs.errors import NoModel


class _Client:
    """The part of MLflow's client that registers models."""

    def __init__(self) -> None:
        self.versions: list[Any] = []
        self.models: list[str] = []
        self.champion: str | None = None
        self.uploads: list[tuple[str, str, str]] = []
        self.downloads = 0

    def create_registered_model(self, name: str) -> None:
        if name in self.models:
            raise MlflowException("exists", RESOURCE_ALREADY_EXISTS)
        self.models.append(name)

    def search_model_versions(self, query: str) -> list[Any]:
        name, condition = query.split(" and ")
        assert name == "name = 'seqae'"
        key, value = condition.split(" = ")
        if key == "run_id":
            return [each for each in reversed(self.versions) if each.run_id == value.strip("'")]
        assert key == "tags.`seqae.job_id`"
        return [each for each in reversed(self.versions) if each.tags["seqae.job_id"] == value.strip("'")]

    def log_artifacts(self, run_id: str, folder: str, path: str) -> None:
        self.uploads.append((run_id, folder, path))

    def create_model_version(self, name: str, source: str, run_id: str, *, tags: Mapping[str, str], **_: Any) -> Any:
        assert source == f"runs:/{run_id}/model"
        made = SimpleNamespace(name=name, version=str(len(self.versions) + 1), run_id=run_id, tags=tags, aliases=[])
        self.versions.append(made)
        return made

    def set_registered_model_alias(self, _: str, alias: str, version: str) -> None:
        self.champion = version
        for each in self.versions:
            each.aliases = [alias] if each.version == version else []

    def get_model_version_by_alias(self, name: str, _: str) -> Any:
        if self.champion is None:
            raise MlflowException("no such alias", INVALID_PARAMETER_VALUE)
        return self.get_model_version(name, self.champion)

    def get_model_version(self, _: str, version: str) -> Any:
        if int(version) > len(self.versions):
            raise MlflowException("no such version", RESOURCE_DOES_NOT_EXIST)
        return self.versions[int(version) - 1]

    def download_artifacts(self, _: str, path: str, target: str) -> str:
        self.downloads += 1
        made = Path(target) / path
        made.mkdir()
        (made / "config.json").write_text("{}")
        return str(made)


@pytest.fixture
def client() -> _Client:
    return _Client()


@pytest.fixture
def registry(client: _Client, tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(client, "seqae", tmp_path / "models")


CHECKPOINT = Path("/jobs/job_a/attempts/1/checkpoints/4")


def _register(registry: ModelRegistry, job: str, error: float, scenes: str = "s1") -> bool:
    return registry.register(job, f"run_{job}", CHECKPOINT, {"test_mse": error}, scenes).is_champion


def test_the_first_model_is_the_champion(registry: ModelRegistry, client: _Client) -> None:
    made = registry.register("job_a", "run_a", CHECKPOINT, {"test_mse": 0.5}, "s1")
    assert (made.name, made.version, made.run_id, made.job_id) == ("seqae", "1", "run_a", "job_a")
    assert (made.path, made.metrics, made.is_champion) == (CHECKPOINT, {"test_mse": 0.5}, True)
    assert client.uploads == [("run_a", str(CHECKPOINT), "model")]


def test_a_job_is_registered_once(registry: ModelRegistry, client: _Client) -> None:
    for _ in range(2):
        assert _register(registry, "a", 0.5)
    assert len(client.versions) == len(client.uploads) == 1


def test_only_a_better_model_on_the_same_scenes_becomes_the_champion(registry: ModelRegistry) -> None:
    assert _register(registry, "a", 0.5)
    assert not _register(registry, "b", 0.5), "as good is not better"
    assert not _register(registry, "c", 0.6)
    assert not _register(registry, "d", 0.1, scenes="s2")
    assert _register(registry, "e", 0.4)
    assert registry.resolve("champion").job_id == "e"


def test_a_crash_before_the_alias_was_set_is_made_up_for(registry: ModelRegistry, client: _Client) -> None:
    _register(registry, "a", 0.5)
    client.champion = None
    assert _register(registry, "a", 0.5)


def test_a_model_is_found_by_champion_version_and_job(registry: ModelRegistry, client: _Client) -> None:
    for job, error in (("a", 0.5), ("b", 0.4)):
        _register(registry, job, error)
    # A job that was registered twice, by two control planes at once, has its first version.
    client.create_model_version("seqae", "runs:/run_a/model", "run_a", tags=client.versions[0].tags)
    assert [registry.resolve(selector).version for selector in ("champion", "1", "a", "b")] == ["2", "1", "1", "2"]
    assert registry.resolve("1").metrics == {"test_mse": 0.5}


def test_the_files_are_downloaded_once(registry: ModelRegistry, client: _Client, tmp_path: Path) -> None:
    _register(registry, "a", 0.5)
    for _ in range(2):
        path = registry.resolve("champion").path
        assert path == tmp_path / "models" / "run_a-1"
        assert (path / "config.json").read_text() == "{}"
    assert client.downloads == 1
    assert list((tmp_path / "models").iterdir()) == [path]


@pytest.mark.parametrize("selector", ["champion", "77", "job_unknown", "", "x' or '1", "../..", "²"])
def test_an_unknown_model_is_an_error(registry: ModelRegistry, selector: str) -> None:
    with pytest.raises(NoModel, match="no registered model"):
        registry.resolve(selector)
