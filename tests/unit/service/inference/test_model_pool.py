"""Which model is served when."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.backends.fakes import FakeTracking
from jobs.errors import NoModel, TrackingUnavailable
from jobs.interfaces import CHAMPION, ModelVersion
from seqae.checkpoints import checkpoint
from seqae.errors import CheckpointError
from seqae.model import SequentialAutoEncoder
from seqae.reconstruction import Reconstruction
from service.errors import ModelNotFoundError, OverloadedError
from service.inference.model_pool import ModelPool, load_checkpoint
from service.settings import Settings
from tests.reports import make_report
from tests.unit.service.inference.fake_model import CONFIG, FakeModel


class FakeLoader:
    """Loads fake models by their folder's name, and counts how often."""

    def __init__(self) -> None:
        self.models: dict[str, FakeModel] = {}
        self.loads: list[str] = []

    def load(self, path: Path) -> FakeModel:
        self.loads.append(path.name)
        if path.name == "damaged":
            raise CheckpointError(f"{path}: damaged")
        error = float("nan") if path.name == "sick" else 0.5
        return self.models.setdefault(path.name, FakeModel(error, frames=2 if path.name == "misshapen" else 1))


def register(tracking: FakeTracking, folder: str, mse: float, model: str = "digits") -> str:
    number = len(tracking.versions) + 1
    job = f"job_{number:012d}"
    run, report = tracking.create_run(job, folder, "train", {}), make_report(mse)
    return tracking.register(job, run.run_id, model, Path(folder), {}, report).version.version


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


@pytest.fixture
def inference(tracking: FakeTracking, settings: Settings, loader: FakeLoader) -> Iterator[ModelPool]:
    torch.set_flush_denormal(False)  # its threads take the flag over from this one
    made = ModelPool(tracking, settings.model_copy(update={"champion_poll": 0.01}), loader.load)
    made.start()
    yield made
    made.stop()


def settle(inference: ModelPool) -> None:
    """A look that begins after now has ended when the second one from now has."""
    assert inference.wait_for_round(60)
    assert inference.wait_for_round(60)


def served(inference: ModelPool) -> str | None:
    return inference.champion.version.version if inference.champion else None


def test_denormal_numbers_are_zeros_where_models_run(inference: ModelPool, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    model = FakeModel()
    answer = model.reconstruct_arrays

    def reconstruct(inputs: np.ndarray, sizes: Sequence[tuple[int, int]] | None = None) -> list[Reconstruction]:
        found.append(float(torch.full((1,), 1e-37) * 1e-2) == 0)
        return answer(inputs, sizes)

    monkeypatch.setattr(model, "reconstruct_arrays", reconstruct)
    shape = (CONFIG.model.height, CONFIG.model.width, CONFIG.model.channels)
    inference.batcher.submit(model, np.zeros(shape, np.uint8), (8, 8)).result(20)
    assert found == [True]


def test_without_a_model_it_says_how_to_get_one(inference: ModelPool) -> None:
    settle(inference)
    with pytest.raises(NoModel, match="seqae demo"):
        inference.find(CHAMPION)
    assert "no model yet" in inference.detail


def test_a_better_champion_takes_over_and_the_one_before_is_kept(
    inference: ModelPool, tracking: FakeTracking, loader: FakeLoader
) -> None:
    register(tracking, "a", 0.5)
    settle(inference)
    assert served(inference) == "1"
    register(tracking, "worse", 0.9)
    settle(inference)
    assert served(inference) == "1"
    register(tracking, "better", 0.1)
    settle(inference)
    assert served(inference) == "3"
    assert inference.previous is not None
    assert inference.previous.version.version == "1"
    assert loader.loads == ["a", "better"]


@pytest.mark.parametrize("folder", ["damaged", "sick", "misshapen"])
def test_a_champion_that_fails_its_check_is_passed_over(
    inference: ModelPool, tracking: FakeTracking, loader: FakeLoader, folder: str
) -> None:
    register(tracking, "a", 0.5)
    settle(inference)
    register(tracking, folder, 0.1)
    settle(inference)
    settle(inference)
    assert served(inference) == "1"
    assert loader.loads.count(folder) == 1
    register(tracking, "b", 0.05)
    settle(inference)
    assert served(inference) == "3"


def test_a_first_champion_that_is_damaged_is_no_model(inference: ModelPool, tracking: FakeTracking) -> None:
    register(tracking, "damaged", 0.1)
    settle(inference)
    with pytest.raises(NoModel, match="can't be served"):
        inference.find(CHAMPION)


def test_a_rollback_of_the_registry_is_followed(
    inference: ModelPool, tracking: FakeTracking, loader: FakeLoader
) -> None:
    register(tracking, "a", 0.5)
    settle(inference)
    register(tracking, "b", 0.4)
    settle(inference)
    tracking.rollback("digits", "ann", "")
    settle(inference)
    assert served(inference) == "1"
    assert loader.loads == ["a", "b"], "the champion before is kept, so that going back is instant"
    register(tracking, "c", 0.3)
    settle(inference)
    assert served(inference) == "3"


def test_a_refresh_is_a_look_at_once(tracking: FakeTracking, settings: Settings, loader: FakeLoader) -> None:
    pool = ModelPool(tracking, settings, loader.load)
    register(tracking, "a", 0.5)
    pool.refresh()
    assert served(pool) == "1"
    assert pool.find("digits") is pool.champion
    register(tracking, "b", 0.4)
    pool.refresh()
    assert pool.find("digits") is pool.champion
    assert served(pool) == "2", "what was known of the alias is forgotten"


def test_models_of_several_names_are_served(inference: ModelPool, tracking: FakeTracking) -> None:
    register(tracking, "a", 0.5)
    register(tracking, "b", 0.5, model="coco")
    settle(inference)
    assert inference.champion is not None
    assert inference.champion.version.key.label == "coco/1", "the one that was promoted last"
    for selector in ("digits", "digits@champion", "digits/1", "job_000000000001"):
        assert inference.find(selector).version.key.label == "digits/1"
    assert inference.find("coco") is inference.champion


def test_a_moved_alias_of_another_model_is_followed(
    tracking: FakeTracking, settings: Settings, loader: FakeLoader
) -> None:
    pool = ModelPool(tracking, settings.model_copy(update={"champion_poll": 0.05}), loader.load)
    register(tracking, "a", 0.5)
    register(tracking, "b", 0.6)
    assert pool.find("digits").version.version == "1"
    tracking.promote("digits", "2", "ann", "")
    assert pool.find("digits").version.version == "1", "its word is believed for a moment"
    time.sleep(0.06)
    assert pool.find("digits").version.version == "2"


def test_a_model_that_was_deleted_and_made_anew_is_another(inference: ModelPool, tracking: FakeTracking) -> None:
    """A3: version 1 of today is served, not version 1 of yesterday."""
    register(tracking, "a", 0.5)
    settle(inference)
    before = inference.find("digits/1")
    tracking.versions.clear()
    tracking.aliases.clear()
    run = tracking.create_run("job_000000000099", "again", "train", {})
    tracking.register("job_000000000099", run.run_id, "digits", Path("again"), {}, make_report(0.9))
    time.sleep(0.02)
    settle(inference)
    for selector in (CHAMPION, "digits/1", "1", "digits"):
        found = inference.find(selector)
        assert found is not before
        assert found.version.job_id == "job_000000000099"


def test_a_champion_that_is_gone_is_served_on(inference: ModelPool, tracking: FakeTracking) -> None:
    """A1, A5: an alias on a foreign version, or missing files, take nothing away from who is served."""
    register(tracking, "a", 0.5)
    settle(inference)
    tracking.aliases.clear()
    settle(inference)
    assert served(inference) == "1"
    assert "digits/1 is served on" in inference.detail


def test_what_is_unknown_is_not_asked_for_again_at_once(
    tracking: FakeTracking, settings: Settings, loader: FakeLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A6: a client that asks for a model that is not there does not make the registry work."""
    pool = ModelPool(tracking, settings.model_copy(update={"champion_poll": 60.0}), loader.load)
    asked: list[str] = []
    resolve = tracking.resolve

    def counted(selector: str) -> ModelVersion:
        asked.append(selector)
        return resolve(selector)

    monkeypatch.setattr(tracking, "resolve", counted)
    for _ in range(5):
        with pytest.raises(ModelNotFoundError):
            pool.find("999999")
        with pytest.raises(ModelNotFoundError):
            pool.find_loaded("999999")
    assert asked == ["999999"]


def test_a_look_up_that_hangs_makes_others_wait_for_a_bounded_time(
    tracking: FakeTracking, settings: Settings, loader: FakeLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A6."""
    pool = ModelPool(tracking, settings.model_copy(update={"lookup_timeout": 0.1}), loader.load)
    register(tracking, "a", 0.5)
    pool.refresh()
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(selector: str) -> ModelVersion:
        hangs.set()
        assert goes_on.wait(30)
        raise TrackingUnavailable(f"no answer on {selector}")

    monkeypatch.setattr(tracking, "resolve", hang)

    def ask() -> None:
        with pytest.raises(TrackingUnavailable):
            pool.find("job_000000000009")

    first = threading.Thread(target=ask)
    first.start()
    assert hangs.wait(30)
    with pytest.raises(OverloadedError):
        pool.find("job_000000000008")
    assert pool.find(CHAMPION) is pool.champion, "the champion needs no look-up"
    goes_on.set()
    first.join(30)


def test_a_version_whose_files_are_damaged_is_not_found(inference: ModelPool, tracking: FakeTracking) -> None:
    """A5."""
    register(tracking, "a", 0.5)
    register(tracking, "damaged", 0.9)
    settle(inference)
    with pytest.raises(ModelNotFoundError, match="damaged"):
        inference.find("2")


def test_a_checkpoint_with_one_flipped_byte_is_not_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "1"
    checkpoint.save(path, SequentialAutoEncoder(CONFIG.model), CONFIG, iteration=1, metrics={"val/mse": 0.1})
    assert load_checkpoint(path).config == CONFIG
    weights = max(path.iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=weights.name):
        load_checkpoint(path)


def test_the_registry_may_be_away(inference: ModelPool, tracking: FakeTracking) -> None:
    register(tracking, "a", 0.5)
    settle(inference)
    tracking.unreachable = True
    settle(inference)
    assert served(inference) == "1"
    assert "does not answer" in inference.detail
    with pytest.raises(TrackingUnavailable):
        inference.find("7")


def test_versions_and_jobs_are_found_and_only_the_newest_are_kept(
    inference: ModelPool, tracking: FakeTracking, loader: FakeLoader, settings: Settings
) -> None:
    for number in range(5):
        register(tracking, f"m{number}", 0.1 + number)
    settle(inference)
    assert inference.find("1") is inference.champion
    second = inference.find("2")
    assert inference.find("job_000000000002") is second
    inference.find("3")
    assert inference.find("2") is second
    inference.find("4")
    assert {loaded.version.version for loaded in inference.others} == {"2", "4"}
    assert loader.loads == ["m0", "m1", "m2", "m3"]
    with pytest.raises(ModelNotFoundError):
        inference.find("99")
