import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from seqae.compute.two_phase_seeker import TwoPhaseSeeker, _Looks
from seqae.config import TrainConfig
from seqae.losses import Losses
from seqae.model import SequentialAutoEncoder
from seqae.optimization.training_loss import TrainingLoss

Make = Callable[..., TrainConfig]

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "sizes, colour, a side that is no multiple of 4": {
        "model": {"localizer": {"sizes": [12, 20]}, "channels": 3, "height": 22, "background": {}}
    },
    "windows from the support, too": {"model": {"localizer": {"sizes": [4, 28], "support": True}}},
    "nothing pasted": {"loss": {"alpha_separation": 0, "alpha_location": 0}},
    "gamma free, region loss against the image": {
        "model": {"attention": {"log_gamma_max": 1.0, "sigma": "free"}},
        "loss": {"alpha_region": 1.0, "region_target": "image"},
    },
    "variational, one step": {"model": {"coder": {"kind": "variational"}, "steps": 1}},
}


def gradients(config: TrainConfig, two_phase: bool) -> tuple[Losses, dict[str, Tensor | None]]:
    """Of one step of a model that is not new: every layer is other than 0."""
    torch.manual_seed(3)
    model = SequentialAutoEncoder(config.model)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.two_phase = two_phase
    image = torch.rand(4, config.model.channels, config.model.height, config.model.width)
    losses = TrainingLoss(model, config)(image, config.model.steps)
    torch.autograd.backward(losses.total)
    return losses, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_are_those_of_one_pass_for_each_look(small_config: Make, variant: str) -> None:
    config = small_config(**VARIANTS[variant])
    losses, found = gradients(config, two_phase=True)
    expected_losses, expected = gradients(config, two_phase=False)
    assert losses == expected_losses, "bit for bit"
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        got = found[name]
        if value is None or got is None:
            assert got is value, name
            continue
        # Relative to the gradient's size: single numbers of it may be sums that cancel.
        assert float((got - value).norm()) <= 1e-6 * float(value.norm()), name
    assert any(name.startswith("localizer") and value is not None and value.any() for name, value in found.items())


def test_in_bfloat16_they_are_the_same_to_its_rounding(small_config: Make) -> None:
    config = small_config(schedule={"precision": "bfloat16"})
    losses, found = gradients(config, two_phase=True)
    expected_losses, expected = gradients(config, two_phase=False)
    assert losses == expected_losses
    for name, value in expected.items():
        got = found[name]
        assert got is not None
        assert value is not None
        assert got.dtype is torch.float32
        assert float((got - value).norm()) <= 0.02 * float(value.norm()), name


def test_frozen_parameters_get_none(small_config: Make) -> None:
    config = small_config()
    model = SequentialAutoEncoder(config.model)
    frozen = model.localizer.get_parameter("stack.2.weight").requires_grad_(False)
    model.localizer.get_parameter("head.weight").requires_grad_(False)
    torch.autograd.backward(TrainingLoss(model, config)(torch.rand(4, 1, 24, 28), 2).total)
    assert frozen.grad is None
    assert model.localizer.get_parameter("stack.4.weight").grad is not None


def test_all_looks_share_one_backward_pass(small_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """That at the pasted images, too."""
    config = small_config()
    model = SequentialAutoEncoder(config.model)
    looks: list[int] = []
    usual = _Looks.gradients

    def gradients(self: _Looks, of_windows: Tensor | None, of_logits: Tensor | None) -> dict[nn.Parameter, Tensor]:
        assert of_windows is not None
        assert of_logits is not None
        looks.append(self.count)
        return usual(self, of_windows, of_logits)

    monkeypatch.setattr(_Looks, "gradients", gradients)
    torch.autograd.backward(TrainingLoss(model, config)(torch.rand(4, 1, 24, 28), 3).total)
    assert looks == [4]


def test_its_operations_are_counted(small_config: Make) -> None:
    """The benchmark's floor: the same FLOPs, whoever computes the backward pass."""
    found = []
    for two_phase in (True, False):
        model = SequentialAutoEncoder(small_config().model)
        model.two_phase = two_phase
        with FlopCounterMode(display=False) as counter:
            torch.autograd.backward(TrainingLoss(model, small_config())(torch.rand(4, 1, 24, 28), 3).total)
        found.append(counter.get_total_flops())
    assert found[0] == pytest.approx(found[1], rel=0.01), "but for sums of products in place of products"


def test_the_memory_of_a_step_is_free_when_its_graph_is(small_config: Make) -> None:
    """A cycle of references would keep it until the garbage collector comes."""
    model = SequentialAutoEncoder(small_config().model)
    gc.disable()
    try:
        output = model(torch.rand(2, 1, 24, 28))
        kept = weakref.ref(output.looks._looks)
        del output
        assert kept() is None
    finally:
        gc.enable()


def test_nothing_is_kept_where_no_gradient_is_asked_for(small_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config()
    model = SequentialAutoEncoder(config.model)
    with torch.no_grad():
        assert model(torch.rand(1, 1, 24, 28)).looks is None
    assert isinstance(model(torch.rand(1, 1, 24, 28)).looks, TwoPhaseSeeker)
    model.checkpoint_activations = True
    assert model(torch.rand(1, 1, 24, 28)).looks is None
