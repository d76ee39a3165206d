"""Which model is served when."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs.backends.fakes import FakeTracking
from jobs.errors import NoModel, TrackingUnavailable
from seqae.checkpoints import checkpoint
from seqae.errors import CheckpointError
from seqae.model import SequentialAutoEncoder
from service.errors import ConflictError, ModelNotFoundError
from service.inference.model_pool import CHAMPION, ModelPool, load_checkpoint
from service.settings import Settings
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


def register(tracking: FakeTracking, folder: str, test_mse: float) -> str:
    number = len(tracking.versions) + 1
    job = f"job_{number:012d}"
    run = tracking.create_run(job, folder, "train", {})
    return tracking.register(job, run.run_id, Path(folder), {"test_mse": test_mse}, "scenes").version


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


@pytest.fixture
def inference(tracking: FakeTracking, settings: Settings, loader: FakeLoader) -> Iterator[ModelPool]:
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


def test_rollback_stays_until_there_is_yet_another_champion(inference: ModelPool, tracking: FakeTracking) -> None:
    with pytest.raises(ConflictError):
        inference.rollback()
    register(tracking, "a", 0.5)
    settle(inference)
    register(tracking, "b", 0.4)
    settle(inference)
    inference.rollback()
    settle(inference)
    assert (served(inference), inference.pinned) == ("1", True)
    register(tracking, "c", 0.3)
    settle(inference)
    assert (served(inference), inference.pinned) == ("3", False)


def point_champion(tracking: FakeTracking, number: str) -> None:
    """Moves the registry's alias by hand, as a person may."""
    tracking.versions = [replace(version, is_champion=version.version == number) for version in tracking.versions]


def test_a_rollback_is_over_when_the_registry_goes_back_as_well(inference: ModelPool, tracking: FakeTracking) -> None:
    register(tracking, "a", 0.5)
    settle(inference)
    register(tracking, "b", 0.4)
    settle(inference)
    inference.rollback()
    settle(inference)
    assert "passed over" in inference.detail
    point_champion(tracking, "1")
    settle(inference)
    assert (served(inference), inference.pinned) == ("1", False)
    assert inference.detail == "version 1 of seqae"
    point_champion(tracking, "2")
    settle(inference)
    assert (served(inference), inference.pinned) == ("2", False)


def test_a_checkpoint_with_one_flipped_byte_is_not_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "1"
    checkpoint.save(path, SequentialAutoEncoder(CONFIG.model), CONFIG, iteration=1, metrics={"test_mse": 0.1})
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
    assert [loaded.version.version for loaded in inference.others] == ["2", "4"]
    assert loader.loads == ["m0", "m1", "m2", "m3"]
    with pytest.raises(ModelNotFoundError):
        inference.find("99")
