"""Which requests share a batch."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from service.inference.batcher import Batcher
from tests.unit.service.inference.fake_model import FakeModel


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
