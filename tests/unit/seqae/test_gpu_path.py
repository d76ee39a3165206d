"""The way to a GPU, as far as a CPU can test it: devices, synchronizations, operations, graph breaks."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.model import SequentialAutoEncoder
from seqae.optimization.training_loss import TrainingLoss
from seqae.training import Trainer

Make = Callable[..., TrainConfig]
Data = Callable[[TrainConfig], Dataset]

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "bfloat16": {"schedule": {"precision": "bfloat16"}},
    "activations made again": {"schedule": {"checkpoint_activations": True}},
    "variational": {"model": {"coder": {"kind": "variational"}}},
    "paper": {"preset": "paper"},
    "improved": {"model": {"localizer": {"kind": "improved"}, "channels": 3, "background": {}}},
}

SYNCHRONIZING = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.masked_select.default"}
"""Operations for which the host waits for the GPU."""


def loss_of(config: TrainConfig) -> TrainingLoss:
    model = SequentialAutoEncoder(config.model)
    model.checkpoint_activations = config.schedule.checkpoint_activations
    return TrainingLoss(model, config)


def batch(config: TrainConfig, device: str = "cpu") -> Tensor:
    return torch.rand(5, config.model.channels, config.model.height, config.model.width, device=device)


@pytest.fixture
def autocast_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast takes the meta device for the CPU; it knows none by that name."""
    usual = torch.autocast

    def autocast(device: str, *args: Any, **kwargs: Any) -> torch.autocast:
        return usual("cpu" if device == "meta" else device, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", autocast)


@pytest.mark.usefixtures("autocast_on_meta")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_makes_no_tensor_on_another_device_and_reads_none(small_config: Make, variant: str) -> None:
    """On the meta device, where tensors have no values: one of the CPU among them, or `float()` of one, is an error."""
    config = small_config(**VARIANTS[variant])
    loss = loss_of(config).to("meta")
    found = loss(batch(config, "meta"), config.model.steps)
    torch.autograd.backward(found.total)
    assert found.total.device.type == "meta"
    assert all(p.grad is None or p.grad.device.type == "meta" for p in loss.parameters())


@pytest.mark.usefixtures("autocast_on_meta")
def test_the_meta_device_finds_what_would_be_wrong(small_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config()
    loss = loss_of(config).to("meta")
    monkeypatch.setattr(loss.model.localizer, "cell_x", torch.zeros(42))
    with pytest.raises(RuntimeError, match="device"):
        loss(batch(config, "meta"), 1)


@pytest.mark.parametrize("variant", ["default", "paper"])
def test_the_forward_pass_stays_on_a_gpu(small_config: Make, variant: str) -> None:
    """On tensors that pretend to be on one."""
    config = small_config(**VARIANTS[variant])
    loss = loss_of(config)
    values = {**dict(loss.named_parameters()), **dict(loss.named_buffers())}
    with FakeTensorMode(), torch.device("cuda"):
        fakes = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in values.items()}
        found = functional_call(loss, fakes, (batch(config, "cuda"), config.model.steps))
    assert found.total.device.type == "cuda"


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
    """Counts operations that start a kernel: all but views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_a_step_of_training_stays_within_its_operations(small_config: Make, small_data: Data) -> None:
    """Launches bind a GPU, and a synchronization would make it wait; T is the default's, 6."""
    config = small_config(model={"steps": 6}, schedule={"log_every": 100})
    trainer = Trainer(config, small_data(config))
    trainer.train_step()
    with Operations() as operations:
        trainer.train_step()
    assert not SYNCHRONIZING & set(operations.found)
    assert 1000 < operations.found.total() < 2600


def test_the_counter_sees_a_synchronization() -> None:
    with Operations() as operations:
        float(torch.rand(3).sum())
    assert SYNCHRONIZING & set(operations.found)


@pytest.fixture
def fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("preset", ["seeker", "paper"])
def test_a_compiled_step_is_one_graph(small_config: Make, fresh_compiler: None, preset: str) -> None:
    config = small_config(preset=preset)
    loss = loss_of(config)
    loss.compile(backend="eager", dynamic=False, fullgraph=True)  # a graph break is an error
    assert float(loss(batch(config), 2).total.detach()) > 0


@pytest.mark.slow
def test_each_t_of_a_growing_run_is_compiled_once(small_config: Make, small_data: Data, fresh_compiler: None) -> None:
    """More than torch's usual limit, after which a step would run eagerly with no more than a log line."""
    growth = [{"iteration": at, "steps": 1 + at} for at in range(12)]
    schedule = {"growth": growth, "compile": "default", "epochs": 2}
    config = small_config(model={"steps": 12}, schedule=schedule)
    trainer = Trainer(config, small_data(config))
    counter = CompileCounter()
    trainer.loss.compile(backend=counter, dynamic=False)
    for _ in range(12):
        trainer.train_step()
    assert counter.frame_count == 12


def test_a_growing_run_may_compile_as_often_as_it_grows(small_config: Make, small_data: Data) -> None:
    growth = [{"iteration": at, "steps": 1 + at} for at in range(20)]
    config = small_config(model={"steps": 20}, schedule={"growth": growth, "compile": "default"})
    Trainer(config, small_data(config))
    assert torch._dynamo.config.recompile_limit >= 20
