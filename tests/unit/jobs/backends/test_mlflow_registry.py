"""Registered models and their aliases, by a registry in memory. That a real server takes them is tested with one."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
)

from jobs.backends.mlflow_registry import ModelRegistry
from jobs.directory.records import CrossEvaluation, EvaluationReport
from jobs.errors import NoModel
from jobs.interfaces import RegisteredModel
from jobs.promotion import Promotion
from seqae.checkpoints import manifest
from tests.reports import make_report, make_scores

MODEL = "seqae-mnist_scenes"


class _Page(list[Any]):
    token = None


class _Client:
    """The part of MLflow's client that registers models."""

    def __init__(self) -> None:
        self.versions: dict[str, list[Any]] = {}
        self.aliases: dict[str, dict[str, str]] = {}
        self.model_tags: dict[str, dict[str, str]] = {}
        self.uploads: list[tuple[str, str, str]] = []
        self.texts: dict[tuple[str, str], str] = {}
        self.downloads = 0
        self.gone: set[str] = set()
        """Runs whose artifacts were deleted."""

    def create_registered_model(self, name: str) -> None:
        if name in self.versions:
            raise MlflowException("exists", RESOURCE_ALREADY_EXISTS)
        self.versions[name], self.aliases[name], self.model_tags[name] = [], {}, {}

    def search_model_versions(self, query: str, **_: Any) -> _Page:
        everything = [each for name in self.versions for each in reversed(self.versions[name])]
        for condition in query.split(" and "):
            key, value = condition.split(" = ")
            wanted = value.strip("'")
            if key.startswith("tags."):
                everything = [each for each in everything if each.tags.get(key[6:-1]) == wanted]
            else:
                everything = [each for each in everything if getattr(each, key) == wanted]
        return _Page(everything)

    def search_registered_models(self, **_: Any) -> _Page:
        return _Page([self.get_registered_model(name) for name in self.versions])

    def get_registered_model(self, name: str) -> Any:
        return SimpleNamespace(name=name, aliases=dict(self.aliases[name]), tags=self.model_tags[name])

    def log_artifacts(self, run_id: str, folder: str, path: str) -> None:
        self.uploads.append((run_id, folder, path))

    def log_text(self, run_id: str, text: str, path: str) -> None:
        self.texts[run_id, path] = text

    def create_model_version(self, name: str, source: str, run_id: str, *, tags: Mapping[str, str], **_: Any) -> Any:
        assert source == f"runs:/{run_id}/model"
        number = str(len(self.versions[name]) + 1)
        made = SimpleNamespace(
            name=name, version=number, run_id=run_id, tags=dict(tags), aliases=[], creation_timestamp=1000
        )
        self.versions[name].append(made)
        return made

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self.get_model_version(name, version).tags[key] = value

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        self.model_tags[name][key] = value

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.aliases[name][alias] = str(version)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        self.aliases[name].pop(alias)

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:
        if alias not in self.aliases.get(name, {}):
            raise MlflowException("no such alias", INVALID_PARAMETER_VALUE)
        return self.get_model_version(name, self.aliases[name][alias])

    def get_model_version(self, name: str, version: str) -> Any:
        if int(version) > len(self.versions.get(name, [])):
            raise MlflowException("no such version", RESOURCE_DOES_NOT_EXIST)
        found = self.versions[name][int(version) - 1]
        found.aliases = [alias for alias, number in self.aliases[name].items() if number == found.version]
        return found

    def download_artifacts(self, run_id: str, path: str, target: str) -> str:
        if run_id in self.gone or (path != "model" and (run_id, path) not in self.texts):
            raise MlflowException("no such artifact", RESOURCE_DOES_NOT_EXIST)
        made = Path(target) / path
        if path != "model":
            made.parent.mkdir(parents=True)
            made.write_text(self.texts[run_id, path])
            return str(made)
        self.downloads += 1
        made.mkdir()
        (made / "config.json").write_text("{}")
        manifest.write(made, iteration=1, metrics={})
        return str(made)

    def foreign_version(self, name: str) -> str:
        """A version that a person registered in MLflow's page."""
        made = SimpleNamespace(
            name=name, version=str(len(self.versions[name]) + 1), run_id=None, tags={}, aliases=[], creation_timestamp=1
        )
        self.versions[name].append(made)
        return str(made.version)


@pytest.fixture
def client() -> _Client:
    return _Client()


@pytest.fixture
def registry(client: _Client, tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(client, "", tmp_path / "models")


CHECKPOINT = Path("/jobs/job_a/attempts/1/checkpoints/4")


def _register(registry: ModelRegistry, job: str, mse: float, scenes: str = "s1", model: str = MODEL) -> bool:
    report = make_report(mse, model=model, test_checksum=scenes)
    made = registry.register(f"job_{job}", f"run_{job}", model, CHECKPOINT, report.scores.metrics, report)
    assert made.version.is_champion == made.promotion.promoted
    return made.promotion.promoted


def _only(registry: ModelRegistry) -> RegisteredModel:
    [model] = registry.models()
    return model


def test_the_first_model_is_the_champion(registry: ModelRegistry, client: _Client) -> None:
    made = registry.register("job_a", "run_a", MODEL, CHECKPOINT, {"test/mse": 0.5}, make_report(0.5)).version
    assert (made.name, made.version, made.run_id, made.job_id) == (MODEL, "1", "run_a", "job_a")
    assert (made.path, made.metrics, made.is_champion) == (CHECKPOINT, {"test/mse": 0.5}, True)
    assert client.uploads == [("run_a", str(CHECKPOINT), "model")]
    assert EvaluationReport.model_validate_json(client.texts["run_a", "evaluation/test.json"]) == make_report(0.5)


def test_a_job_is_registered_once(registry: ModelRegistry, client: _Client) -> None:
    for _ in range(2):
        assert _register(registry, "a", 0.5)
    assert len(client.versions[MODEL]) == len(client.uploads) == 1
    assert not _register(registry, "b", 0.6)
    client.aliases[MODEL]["champion"] = "2"
    assert not registry.register("job_b", "run_b", MODEL, CHECKPOINT, {}, make_report(0.6)).promotion.promoted, (
        "what was decided stays decided, whatever a person does afterwards"
    )


def test_a_trial_of_a_search_is_a_version_of_its_own_and_moves_no_alias(
    registry: ModelRegistry, client: _Client
) -> None:
    assert _register(registry, "a", 0.5)
    assert not _register(registry, "b", 0.6)
    decided = Promotion(promoted=True, reason="trial 3 of job_b, chosen by ann")
    for _ in range(2):
        made = registry.register("job_b", "run_b_trial", MODEL, CHECKPOINT, {"val/mse": 0.1}, None, decided=decided)
        assert (made.version.version, made.version.job_id, made.promotion) == ("3", "job_b", decided)
    assert client.aliases[MODEL] == {"champion": "1", "challenger": "2"}
    assert len(client.uploads) == 3
    assert registry.resolve("job_b").version == "2", "a job's own model is still meant by its id"
    newest = _only(registry).versions[0]
    assert (newest.version, newest.promotion, newest.metrics) == ("3", decided, {"val/mse": 0.1})
    registry.promote(MODEL, "3", "ann", "sharper")
    assert registry.resolve("champion").run_id == "run_b_trial"


def test_only_a_better_model_on_the_same_images_becomes_the_champion(registry: ModelRegistry) -> None:
    """F1: the same test images compare, whatever the models were trained on."""
    assert _register(registry, "a", 0.5)
    assert not _register(registry, "b", 0.5), "as good is not better"
    assert not _register(registry, "c", 0.6)
    assert not _register(registry, "d", 0.1, scenes="s2")
    assert _register(registry, "e", 0.4)
    assert registry.resolve("champion").job_id == "job_e"


def test_on_other_images_the_finishing_job_has_compared(registry: ModelRegistry) -> None:
    """F1: a champion that was tested on other images is compared by what the job measured of it on its own."""
    assert _register(registry, "a", 0.5)
    for version, promoted in (("1", True), ("7", False)):
        against = CrossEvaluation(name=MODEL, version=version, run_id="run_a", champion=make_scores(0.4))
        report = make_report(0.3, test_checksum="s2").model_copy(update={"against": against})
        made = registry.register(f"job_{version}", f"run_{version}", MODEL, CHECKPOINT, {}, report)
        assert (made.promotion.promoted, made.promotion.against) == (promoted, "seqae-mnist_scenes/1")
        registry.promote(MODEL, "1", "ann", "again")


def test_a_version_says_by_which_rule_it_was_scored(registry: ModelRegistry, client: _Client) -> None:
    report = make_report(0.5, scoring_version=7)
    assert registry.register("job_a", "run_a", MODEL, CHECKPOINT, {}, report).version.scoring_version == 7
    tags = client.versions[MODEL][0].tags
    for tag, version in (("2", 2), ("", 0), ("two", 0), ("9" * 5_000, 0), ("-1", 0)):
        tags["seqae.scoring_version"] = tag
        assert registry.register("job_a", "run_a", MODEL, CHECKPOINT, {}, report).version.scoring_version == version
    del tags["seqae.scoring_version"]
    old = registry.register("job_a", "run_a", MODEL, CHECKPOINT, {}, report).version
    assert old.scoring_version == 1, "a release that wrote none down"


def test_models_of_other_names_have_champions_of_their_own(registry: ModelRegistry) -> None:
    assert _register(registry, "a", 0.1)
    assert _register(registry, "b", 0.9, model="seqae-images-coco")
    assert registry.resolve(MODEL).job_id == registry.resolve(f"{MODEL}@champion").job_id == "job_a"
    assert registry.resolve("seqae-images-coco/1").job_id == "job_b"
    assert registry.resolve("champion").job_id == "job_b", "the one that was promoted last"
    registry.promote(MODEL, "1", "ann", "back to digits")
    assert registry.resolve("champion").job_id == "job_a"


def test_a_crash_before_the_alias_was_set_is_made_up_for(registry: ModelRegistry, client: _Client) -> None:
    _register(registry, "a", 0.5)
    client.versions[MODEL][0].tags.pop("seqae.promotion")
    client.aliases[MODEL].clear()
    assert _register(registry, "a", 0.5)


def test_a_crash_after_the_alias_was_set_is_made_up_for(registry: ModelRegistry, client: _Client) -> None:
    _register(registry, "a", 0.5)
    client.versions[MODEL][0].tags.pop("seqae.promotion")
    assert _register(registry, "a", 0.5)
    assert len(_only(registry).history) == 1


def test_a_model_is_found_by_alias_version_and_job(registry: ModelRegistry, client: _Client) -> None:
    for job, mse in (("a", 0.5), ("b", 0.4), ("c", 0.6)):
        _register(registry, job, mse)
    # A job that was registered twice, by two control planes at once, has its first version.
    client.create_model_version(MODEL, "runs:/run_a/model", "run_a", tags=client.versions[MODEL][0].tags)
    selectors = ("champion", "1", "job_a", "job_b", f"{MODEL}/2", f"{MODEL}@challenger", f"{MODEL}@previous", MODEL)
    found = [registry.resolve(selector).version for selector in selectors]
    assert found == ["2", "1", "1", "2", "2", "3", "1", "2"]
    assert registry.resolve("1").metrics["test/mse"] == 0.5
    assert registry.resolve("job_b").is_champion, "a search leaves the aliases out"


def test_the_files_are_downloaded_once(registry: ModelRegistry, client: _Client, tmp_path: Path) -> None:
    _register(registry, "a", 0.5)
    for _ in range(2):
        path = registry.resolve("champion").path
        assert path == tmp_path / "models" / "run_a-1"
        assert (path / "config.json").read_text() == "{}"
    assert client.downloads == 1
    assert list((tmp_path / "models").iterdir()) == [path]


@pytest.mark.parametrize(
    "selector", ["champion", "77", "job_unknown", "", "x' or '1", "../..", "²", "/", "@", "a@b@c", "a/b/c", "a/²"]
)
def test_an_unknown_model_is_an_error(registry: ModelRegistry, selector: str) -> None:
    with pytest.raises(NoModel, match="no registered model"):
        registry.resolve(selector)


def test_a_champion_that_was_not_made_here_is_none_of_ours(registry: ModelRegistry, client: _Client) -> None:
    """A1: a person moves the alias to a version of their own; jobs end, and their models are served again."""
    _register(registry, "a", 0.5)
    client.aliases[MODEL]["champion"] = client.foreign_version(MODEL)
    with pytest.raises(NoModel, match="version 2 of seqae-mnist_scenes was not made here"):
        registry.resolve("champion")
    model = _only(registry)
    assert [(version.version, version.job_id) for version in model.versions] == [("2", None), ("1", "job_a")]
    assert model.promoted_at is None
    made = registry.register("job_b", "run_b", MODEL, CHECKPOINT, {}, make_report(0.9))
    assert made.promotion.promoted
    assert "version 2, which was not made here" in made.promotion.reason
    assert client.aliases[MODEL] == {"champion": "3"}, "a foreign version is no earlier champion"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"test/mse": "x"}', "null", "9" * 400])
def test_tags_that_make_no_sense_count_as_missing(registry: ModelRegistry, client: _Client, text: str) -> None:
    """A1: what people write into our tags never stops a job or the list of models."""
    _register(registry, "a", 0.5)
    tags = client.versions[MODEL][0].tags
    for key in list(tags):
        if key != "seqae.job_id":
            tags[key] = text
    client.model_tags[MODEL]["seqae.promotions"] = text
    client.texts["run_a", "evaluation/test.json"] = text
    model = _only(registry)
    assert (model.versions[0].metrics, model.versions[0].promotion, model.history) == ({}, None, ())
    assert registry.resolve("champion").metrics == {}
    assert not _register(registry, "b", 0.1), "nothing is known of the champion"
    registry.promote(MODEL, "2", "ann", "")
    assert registry.resolve("champion").version == "2"


def test_a_model_that_was_deleted_and_made_anew_is_another(registry: ModelRegistry, client: _Client) -> None:
    """A3: version 1 of today is not version 1 of yesterday."""
    _register(registry, "a", 0.5)
    before = registry.resolve(f"{MODEL}/1")
    client.versions.clear()
    _register(registry, "b", 0.9)
    after = registry.resolve(f"{MODEL}/1")
    assert (before.key.label, before.path) != (after.key.label, after.path)
    assert before.key != after.key


def test_missing_files_are_said(registry: ModelRegistry, client: _Client, tmp_path: Path) -> None:
    """A5: a person deletes the artifacts of a version."""
    _register(registry, "a", 0.5)
    client.gone.add("run_a")
    with pytest.raises(NoModel, match="files of version 1 of seqae-mnist_scenes are missing"):
        registry.resolve("champion")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_server_with_a_fault_is_no_missing_file(
    registry: ModelRegistry, client: _Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register(registry, "a", 0.5)

    def fail(*_: object) -> str:
        raise MlflowException("on fire", INTERNAL_ERROR)

    monkeypatch.setattr(client, "download_artifacts", fail)
    with pytest.raises(MlflowException, match="on fire"):
        registry.resolve("champion")
    with pytest.raises(MlflowException, match="on fire"):
        _register(registry, "b", 0.4)


def test_a_promotion_and_a_rollback_are_moves_of_the_alias(registry: ModelRegistry, client: _Client) -> None:
    _register(registry, "a", 0.5)
    _register(registry, "b", 0.6)
    assert client.aliases[MODEL] == {"champion": "1", "challenger": "2"}
    registry.promote(MODEL, "2", "ann", "sharper")
    assert client.aliases[MODEL] == {"champion": "2", "previous": "1"}
    registry.rollback(MODEL, "bob", "not sharper")
    assert client.aliases[MODEL] == {"champion": "1", "previous": "2"}
    registry.rollback(MODEL, "bob", "well")
    assert client.aliases[MODEL] == {"champion": "2", "previous": "1"}
    moves = [(move.version, move.who, move.why) for move in _only(registry).history]
    assert moves[:3] == [("2", "bob", "well"), ("1", "bob", "not sharper"), ("2", "ann", "sharper")]


def test_what_can_not_be_moved_is_said(registry: ModelRegistry, client: _Client) -> None:
    with pytest.raises(NoModel, match="no earlier champion"):
        registry.rollback(MODEL, "", "")
    _register(registry, "a", 0.5)
    with pytest.raises(NoModel, match="no earlier champion"):
        registry.rollback(MODEL, "", "")
    foreign = client.foreign_version(MODEL)
    for version in ("7", foreign, "x"):
        with pytest.raises(NoModel, match=f"no version {version}"):
            registry.promote(MODEL, version, "", "")


def test_the_history_is_kept_to_a_bound(registry: ModelRegistry, client: _Client) -> None:
    _register(registry, "a", 0.5)
    _register(registry, "b", 0.4)
    for number in range(60):
        registry.rollback(MODEL, "someone", f"{number} " + "x" * 400)
    history = _only(registry).history
    assert history[0].why.startswith("59 ")
    assert len(client.model_tags[MODEL]["seqae.promotions"]) < 5_000


def test_a_result_of_an_older_release_is_registered_without_a_test(registry: ModelRegistry) -> None:
    first = registry.register("job_a", "run_a", MODEL, CHECKPOINT, {"test_mse": 0.5}, None)
    second = registry.register("job_b", "run_b", MODEL, CHECKPOINT, {"test_mse": 0.4}, None)
    assert (first.promotion.promoted, second.promotion.promoted) == (True, False)
    assert "older release" in second.promotion.reason


def test_what_is_stored_of_a_decision_fits_into_a_tag(registry: ModelRegistry, client: _Client) -> None:
    _register(registry, "a", 0.5)
    report = make_report(0.4, test_checksum="s1")
    many = {f"test/mse_step_{step}": 0.1 for step in range(500)}
    scores = report.scores.model_copy(update={"metrics": report.scores.metrics | many})
    registry.register("job_b", "run_b", MODEL, CHECKPOINT, {}, report.model_copy(update={"scores": scores}))
    tag = client.versions[MODEL][1].tags["seqae.promotion"]
    assert len(tag) < 5_000
    assert json.loads(tag)["promoted"]
