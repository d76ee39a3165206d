"""Denormal numbers: the flag that makes them zeros reaches every thread, and nothing depends on it."""

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seqae import training
from seqae.compute.cpu_threads import flush_denormals
from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.evaluation import evaluate
from seqae.model import SequentialAutoEncoder
from seqae.optimization.progress import Progress
from seqae.reconstructor import Reconstructor
from seqae.training import Trainer

Make = Callable[..., TrainConfig]
Data = Callable[[TrainConfig], Dataset]


def flushes() -> bool:
    return float(torch.full((1,), 1e-37) * 1e-2) == 0


def flushes_after(work: Callable[[], object]) -> bool:
    """Whether a thread of its own counts denormal numbers as zeros once it has done its work."""
    found = []

    def run() -> None:
        work()
        found.append(flushes())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_counts_denormal_numbers_as_zeros_only_when_it_is_told() -> None:
    assert not flushes_after(lambda: None)
    assert flushes_after(flush_denormals)
    assert not flushes()


def test_the_library_sets_it_wherever_it_computes(small_config: Make, small_data: Data) -> None:
    config = small_config(schedule={"epochs": 0.1})
    data = small_data(config)
    trainer = Trainer(config, data)
    torch.set_flush_denormal(False)
    assert flushes_after(lambda: list(trainer.run())), "another thread than the one that made it"
    assert flushes_after(lambda: Trainer(config, data))
    given: dict[str, Any] = {"steps": 2, "limit": 2, "iteration": 0, "epoch": 0.0}
    assert flushes_after(lambda: evaluate.evaluate(trainer.model, data.val, **given))
    reconstructor = Reconstructor(trainer.model, config)
    images = data.val.images[:1].transpose(0, 2, 3, 1)
    assert flushes_after(lambda: reconstructor.reconstruct_arrays(images))


_IN_ALL_THREADS = """
import torch
from seqae.compute.cpu_threads import set_threads
set_threads(2)

class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 1e-2

many = torch.full((1_000_000,), 1e-37, requires_grad=True)
assert int((many.detach() * 1e-2).count_nonzero()) == 0, "OpenMP's threads"
Twice.apply(many).backward(torch.full_like(many, 1e-37))
assert int(many.grad.count_nonzero()) == 0, "autograd's threads"
"""


def test_it_reaches_the_threads_of_openmp_and_of_autograd() -> None:
    """In a process of its own: threads that another test started would keep their flag."""
    done = subprocess.run([sys.executable, "-c", _IN_ALL_THREADS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_nothing_else_sets_how_many_threads_compute() -> None:
    """Every place that does must set the flag first."""
    root = Path(training.__file__).parent.parent
    files = [file for room in ("seqae", "jobs", "service") for file in (root / room).rglob("*.py")]
    setters = [file.name for file in files if "set_num_threads" in file.read_text()]
    assert setters == ["cpu_threads.py"]


class DenormalCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
    """Counts denormal numbers in whatever an operation returns, by operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor) and value.dtype is torch.float32:
                # By its bits: no sign, an exponent of 0, and a mantissa that is not.
                bits = value.detach().contiguous().view(torch.int32) & 0x7FFFFFFF
                self.found[str(func)] += int(((bits > 0) & (bits < 0x800000)).sum())
        return out


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"preset": "paper", "schedule": {"epochs": 10}},
        {"model": {"channels": 3, "coder": {"kind": "variational"}, "localizer": {"sizes": [12, 20]}}},
    ],
)
def test_no_tensor_of_a_step_holds_a_denormal_number(
    small_config: Make, small_data: Data, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any]
) -> None:
    """Values and gradients, of a model that writes something, at the default's size of image and window."""
    monkeypatch.setattr(training, "flush_denormals", lambda: None)
    model = {"height": 64, "width": 64, "attention": {"kernel_size": 25}} | parts.get("model", {})
    config = small_config(**(parts | {"model": model}))
    trainer = Trainer(config, small_data(config))
    run = trainer.run()
    for _ in range(4):
        next(run)
    assert not flushes()
    with DenormalCounter() as counter:
        report = next(run)
    assert isinstance(report, Progress)
    assert counter.operations > 1000
    assert +counter.found == Counter()


def test_the_counter_finds_denormal_numbers() -> None:
    with DenormalCounter() as counter:
        torch.full((3,), 1e-37) * 1e-2
    assert sum(counter.found.values()) == 3


def test_a_models_own_writes_are_zero_where_they_are_negligible(small_config: Make) -> None:
    """The reconstructor's forward pass, too."""
    config = small_config().model
    model = SequentialAutoEncoder(config).eval()
    with torch.inference_mode(), DenormalCounter() as counter:
        model(torch.rand(2, 1, config.height, config.width))
    assert +counter.found == Counter()
