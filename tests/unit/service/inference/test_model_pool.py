"""Which model is served when, and that requests share batches."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from jobs.backends.fakes import FakeTracking
from jobs.errors import NoModel, TrackingUnavailable
from seqae.config import TrainConfig
from seqae.errors import CheckpointError
from service.errors import ConflictError, ModelNotFoundError
from service.inference.batcher import Batcher
from service.inference.model_pool import CHAMPION, ModelPool
from service.settings import Settings

if TYPE_CHECKING:
    from seqae.reconstructor import Reconstruction

CONFIG = TrainConfig.model_validate(
    {
        "model": {"height": 16, "width": 16, "steps": 2, "attention": {"kernel_size": 8}},
        "data": {"min_scale": 0.5, "max_scale": 0.5},
    }
)


class FakeModel:
    """Answers with its input; can be made slow, wrong or broken."""

    def __init__(self, error: float = 0.5) -> None:
        self.config = CONFIG
        self.batches: list[int] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.running = threading.Event()
        self._error = error
        self.broken = False

    def reconstruct_arrays(
        self, inputs: np.ndarray, sizes: Sequence[tuple[int, int]] | None = None
    ) -> "list[Reconstruction]":
        from seqae.reconstructor import Reconstruction

        self.batches.append(len(inputs))
        self.running.set()
        assert self.may_run.wait(20)
        if self.broken:
            raise RuntimeError("broken")
        return [Reconstruction(image, image[None], (), (self._error,)) for image in inputs]


class Shelf:
    """Loads fake models by their folder's name, and counts how often."""

    def __init__(self) -> None:
        self.models: dict[str, FakeModel] = {}
        self.loads: list[str] = []

    def load(self, path: Path) -> FakeModel:
        self.loads.append(path.name)
        if path.name == "damaged":
            raise CheckpointError(f"{path}: damaged")
        return self.models.setdefault(path.name, FakeModel(float("nan") if path.name == "sick" else 0.5))


def register(tracking: FakeTracking, folder: str, test_mse: float) -> str:
    number = len(tracking.versions) + 1
    job = f"job_{number:012d}"
    run = tracking.create_run(job, folder, "train", {})
    return tracking.register(job, run.run_id, Path(folder), {"test_mse": test_mse}, "scenes").version


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def inference(tracking: FakeTracking, settings: Settings, shelf: Shelf) -> Iterator[ModelPool]:
    made = ModelPool(tracking, settings.model_copy(update={"champion_poll": 0.01}), shelf.load)
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
    inference: ModelPool, tracking: FakeTracking, shelf: Shelf
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
    assert shelf.loads == ["a", "better"]


@pytest.mark.parametrize("folder", ["damaged", "sick"])
def test_a_champion_that_fails_its_check_is_passed_over(
    inference: ModelPool, tracking: FakeTracking, shelf: Shelf, folder: str
) -> None:
    register(tracking, "a", 0.5)
    settle(inference)
    register(tracking, folder, 0.1)
    settle(inference)
    settle(inference)
    assert served(inference) == "1"
    assert shelf.loads.count(folder) == 1
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
    inference: ModelPool, tracking: FakeTracking, shelf: Shelf, settings: Settings
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
    assert shelf.loads == ["m0", "m1", "m2", "m3"]
    with pytest.raises(ModelNotFoundError):
        inference.find("99")


# --- batches


@pytest.fixture
def batcher() -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def make(most: int = 4, linger: float = 0.0) -> Batcher:
        made.append(Batcher(most, linger, lambda: None))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.stop()


def picture(value: int) -> np.ndarray:
    return np.full((16, 16, 1), value, dtype=np.uint8)


def test_what_waits_together_goes_together(batcher: Callable[..., Batcher]) -> None:
    model, batches = FakeModel(), batcher(most=4)
    model.may_run.clear()
    first = batches.submit(model, picture(0), (16, 16))
    assert model.running.wait(10)
    rest = [batches.submit(model, picture(value), (16, 16)) for value in range(1, 7)]
    model.may_run.set()
    found = [future.result(10) for future in [first, *rest]]
    assert model.batches == [1, 4, 2]
    assert [int(answer.input[0, 0, 0]) for answer in found] == list(range(7))


def test_two_models_do_not_share_a_batch(batcher: Callable[..., Batcher]) -> None:
    one, two, batches = FakeModel(), FakeModel(), batcher(most=8)
    one.may_run.clear()
    first = batches.submit(one, picture(0), (16, 16))
    assert one.running.wait(10)
    rest = [batches.submit(model, picture(1), (16, 16)) for model in (two, one, two)]
    one.may_run.set()
    for future in [first, *rest]:
        future.result(10)
    assert (one.batches, two.batches) == ([1, 1], [2])


def test_a_model_that_fails_does_not_end_the_thread(batcher: Callable[..., Batcher]) -> None:
    model, batches = FakeModel(), batcher()
    model.broken = True
    with pytest.raises(RuntimeError, match="broken"):
        batches.submit(model, picture(0), (16, 16)).result(10)
    model.broken = False
    assert batches.submit(model, picture(3), (16, 16)).result(10).input[0, 0, 0] == 3


def test_a_cancelled_request_costs_no_work(batcher: Callable[..., Batcher]) -> None:
    model, batches = FakeModel(), batcher()
    model.may_run.clear()
    first = batches.submit(model, picture(0), (16, 16))
    assert model.running.wait(10)
    given_up, wanted = (batches.submit(model, picture(value), (16, 16)) for value in (1, 2))
    assert given_up.cancel()
    model.may_run.set()
    assert first.result(10).input[0, 0, 0] == 0
    assert wanted.result(10).input[0, 0, 0] == 2
    assert model.batches == [1, 1]
