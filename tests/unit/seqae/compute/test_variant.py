from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from seqae import training
from seqae.compute import variant
from seqae.compute.variant import choose_compilation, choose_precision
from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.training import Trainer

Make = Callable[..., TrainConfig]
Data = Callable[[TrainConfig], Dataset]


class Clock:
    """Time that passes only in steps: so many seconds in each precision."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, float32: float, bfloat16: float) -> None:
        self.now, self.steps = 0.0, 0
        self._seconds = {"float32": float32, "bfloat16": bfloat16}
        monkeypatch.setattr("seqae.compute.variant.time.perf_counter", lambda: self.now)

    def step(self, precision: variant.Precision) -> None:
        self.steps += 1
        self.now += self._seconds[precision]


@pytest.mark.parametrize(
    ("bfloat16", "chosen"), [(0.05, "bfloat16"), (0.089, "bfloat16"), (0.095, "float32"), (0.3, "float32")]
)
def test_bfloat16_is_taken_only_where_it_is_faster_by_a_tenth(
    monkeypatch: pytest.MonkeyPatch, bfloat16: float, chosen: str
) -> None:
    clock = Clock(monkeypatch, 0.1, bfloat16)
    precision, reason, seconds = choose_precision(clock.step, 5000)
    assert precision == chosen
    assert reason == f"a step took 100 ms in float32 and {bfloat16 * 1e3:.0f} ms in bfloat16"
    assert seconds == pytest.approx(0.1 if chosen == "float32" else bfloat16)
    assert clock.steps <= 12


def test_a_short_run_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.1, 0.01)
    assert choose_precision(clock.step, 999) == ("float32", "999 iterations do not repay a measurement", None)
    assert clock.steps == 0


def test_a_step_is_compiled_where_the_run_repays_it() -> None:
    def choose(seconds: float | None, iterations: int, compilations: int = 1, device: str = "cpu") -> str:
        return choose_compilation(seconds, iterations, compilations, device, lambda: True)[0]

    assert choose(0.1, 100_000) == "default"
    assert choose(0.1, 100_000, device="cuda") == "reduce-overhead"
    assert choose(0.1, 5_000) == "off", "75 s are not repaid by 75 s for certain"
    assert choose(0.1, 20_000) == "default"
    assert choose(0.1, 20_000, compilations=4) == "off", "each T is compiled"
    assert choose(None, 10) == "off"
    assert choose_compilation(0.1, 100_000, 1, "cpu", lambda: False) == ("off", "there is no C++ compiler")


AUTO: dict[str, Any] = {"precision": "auto", "compile": "auto"}


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_a_run_computes_as_it_was_chosen(
    small_config: Make, small_data: Data, monkeypatch: pytest.MonkeyPatch, chosen: variant.Precision
) -> None:
    """The same numbers as with that precision in the config: measuring leaves model and noise as they were."""
    asked: list[int] = []

    def choose(step: Callable[[variant.Precision], object], iterations: int) -> tuple[variant.Precision, str, None]:
        asked.append(iterations)
        step("float32")
        step("bfloat16")
        return chosen, "measured", None

    monkeypatch.setattr(training, "choose_precision", choose)
    states: list[dict[str, Tensor]] = []
    for schedule in (AUTO, {"precision": chosen}):
        config = small_config(model={"localizer": {"kind": "improved"}}, schedule=schedule)
        trainer = Trainer(config, small_data(config))
        list(trainer.run())
        states.append(trainer.model.state_dict())
        assert trainer.variant.precision == chosen
    assert asked == [6], "once"
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_short_run_and_several_workers_take_float32_and_say_why(small_config: Make, small_data: Data) -> None:
    config = small_config(schedule=AUTO)
    alone = Trainer(config, small_data(config)).choose_variant()
    assert str(alone) == (
        "float32, not compiled: 6 iterations do not repay a measurement; 6 iterations do not repay compiling"
    )
    shared = Trainer(config, small_data(config), world=2, rank=1, all_reduce=lambda _: None).choose_variant()
    assert str(shared) == "float32, not compiled: several workers do not measure"


def test_what_the_config_says_is_not_measured(
    small_config: Make, small_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "choose_precision", None)
    config = small_config(schedule={"precision": "bfloat16"})
    assert str(Trainer(config, small_data(config)).choose_variant()) == "bfloat16, not compiled"
