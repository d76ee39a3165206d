"""Activations that are made again in the backward pass: the same results, in less memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.optimization.progress import Progress
from seqae.training import Trainer

Make = Callable[..., TrainConfig]
Data = Callable[[TrainConfig], Dataset]

VARIANTS: dict[str, dict[str, Any]] = {
    "seeker": {},
    "batch norm": {"localizer": {"kind": "improved"}},
    "variational": {"coder": {"kind": "variational"}},
    "colour and background": {"channels": 3, "background": {"bottleneck": 4}},
}


@pytest.fixture
def trained(small_config: Make, small_data: Data) -> Callable[..., tuple[list[Progress], dict[str, Tensor]]]:
    """Trains for six iterations: the reports, and all weights and statistics afterwards."""

    def train(model: dict[str, Any], **schedule: Any) -> tuple[list[Progress], dict[str, Tensor]]:
        config = small_config(model=model, schedule=schedule)
        trainer = Trainer(config, small_data(config))
        # Looks of which all activations are kept may share a backward pass, which rounds otherwise: that is tested in
        # `compute/test_two_phase_seeker.py`.
        trainer.model.two_phase = False
        reports = [report for report in trainer.run() if isinstance(report, Progress)]
        return reports, trainer.model.state_dict()

    return train


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_made_again_they_are_the_same(
    trained: Callable[..., tuple[list[Progress], dict[str, Tensor]]], variant: str, precision: str
) -> None:
    """Losses, gradients, weights, and batch norm's statistics, which must not count a batch twice."""
    kept, kept_state = trained(VARIANTS[variant], precision=precision)
    again, again_state = trained(VARIANTS[variant], precision=precision, checkpoint_activations=True)
    assert len(kept) == 6
    for field in ("loss", "region", "mseot", "mse", "gradient_norm"):
        expected = [getattr(report, field) for report in kept]
        assert [getattr(report, field) for report in again] == pytest.approx(expected, rel=1e-6), field
    for name, value in again_state.items():
        torch.testing.assert_close(value, kept_state[name], atol=1e-6, rtol=1e-6, msg=name)


def saved_bytes(small_config: Make, small_data: Data, steps: int, again: bool) -> int:
    """Bytes that one forward pass leaves for the backward pass."""
    config = small_config(model={"steps": steps}, schedule={"checkpoint_activations": again})
    trainer = Trainer(config, small_data(config))
    sizes: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    image = trainer.images[:5].float() / 255
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        losses = trainer.module(image, steps)
    assert losses.total.requires_grad
    return sum(sizes.values())


def test_what_is_kept_grows_slower_with_the_number_of_steps(small_config: Make, small_data: Data) -> None:
    def growth(again: bool) -> int:
        few, many = (saved_bytes(small_config, small_data, steps, again) for steps in (4, 12))
        return many - few

    assert 0 < growth(again=True) < growth(again=False) / 2
