"""torch.compile of the training step: the same training, in less time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor import config as inductor
from torch._inductor import cpp_builder, exc

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.optimization.progress import Progress
from seqae.training import Trainer

Make = Callable[..., TrainConfig]
Data = Callable[[TrainConfig], Dataset]


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cold compiler; the test is skipped where there is no C++ compiler."""
    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    # Compiled code draws from a generator of its own, so it would paste other images: here it asks the eager one.
    with inductor.patch(fallback_random=True):
        yield
    torch.compiler.reset()


@pytest.fixture
def trained(small_config: Make, small_data: Data) -> Callable[..., tuple[list[Progress], dict[str, Tensor]]]:
    """Trains for six iterations: the reports, and all weights afterwards."""

    def train(model: dict[str, Any], **schedule: Any) -> tuple[list[Progress], dict[str, Tensor]]:
        config = small_config(model=model, schedule=schedule)
        trainer = Trainer(config, small_data(config))
        reports = [report for report in trainer.run() if isinstance(report, Progress)]
        return reports, trainer.model.state_dict()

    return train


def assert_the_same(
    trained: Callable[..., tuple[list[Progress], dict[str, Tensor]]], model: dict[str, Any], **schedule: Any
) -> None:
    eager, eager_state = trained(model, **schedule, compile="off")
    compiled, compiled_state = trained(model, **schedule, compile="default")
    for field in ("loss", "region", "mseot", "mse"):
        expected = [getattr(report, field) for report in eager]
        assert [getattr(report, field) for report in compiled] == pytest.approx(expected, rel=1e-4), field
    assert list(compiled_state) == list(eager_state), "a checkpoint does not show who computed it"
    for name, value in compiled_state.items():
        if name == "localizer.score.bias":
            continue  # a softmax ignores it: its gradient is rounding and nothing else
        # Adam divides by the gradient's size, so rounding shows where a gradient is next to nothing.
        torch.testing.assert_close(value, eager_state[name], atol=2e-3, rtol=1e-3, msg=name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_training_is_the_same(
    compiler: None, trained: Callable[..., tuple[list[Progress], dict[str, Tensor]]]
) -> None:
    """At a T that grows on the way."""
    assert_the_same(trained, {"steps": 2}, growth=[{"iteration": 0, "steps": 1}, {"iteration": 3, "steps": 2}])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_training_chooses_itself_which_activations_to_keep(
    compiler: None, trained: Callable[..., tuple[list[Progress], dict[str, Tensor]]]
) -> None:
    assert_the_same(trained, {"steps": 1}, checkpoint_activations=True)
