"""Eq. 1-6 by hand from the records of a step."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from seqae.config import ModelConfig
from seqae.model import Output, SequentialAutoEncoder
from tests.untrained import with_random_writes


def make(**changes: Any) -> SequentialAutoEncoder:
    """A model of images of 20 x 27, with an untrained but not neutral localization network."""
    given: dict[str, Any] = {
        "height": 20,
        "width": 27,
        "steps": 3,
        "attention": {"kernel_size": 9, "log_gamma_max": 1.0},
        "coder": {"bottleneck": 7},
    }
    torch.manual_seed(0)
    model = with_random_writes(SequentialAutoEncoder(ModelConfig.model_validate(given | changes))).eval()
    with torch.no_grad():
        for parameter in model.localizer.head.parameters():  # type: ignore[union-attr]
            parameter.normal_(std=0.3)
    return model


def images(channels: int = 1, height: int = 20, width: int = 27) -> Tensor:
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(1))


def kernels(centre: Tensor, delta: Tensor, sigma: Tensor, n: int, pixels: int) -> Tensor:
    """Eq. 7-10 in float64, [B, N, pixels]."""
    mu = centre[:, None] + (torch.arange(1, n + 1) - n / 2 - 0.5) * delta[:, None]
    f = torch.exp(-((torch.arange(pixels) - mu[:, :, None]) ** 2) / (2 * sigma[:, None, None] ** 2))
    return f / f.sum(dim=2, keepdim=True)


@pytest.mark.parametrize("kind", ["seeker", "small", "improved"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("gain", ["paper", "unit"])
def test_every_step_is_equations_1_to_6(kind: str, channels: Literal[1, 3], gain: str) -> None:
    attention = {"kernel_size": 9, "log_gamma_max": 1.0, "write_gain": gain}
    model = make(channels=channels, localizer={"kind": kind}, attention=attention)
    x = images(channels)
    with torch.no_grad():
        output: Output = model(x)
        canvas = torch.zeros_like(x)
        assert len(output.steps) == 3
        for step in output.steps:
            error = x - canvas  # Eq. 1
            torch.testing.assert_close(step.window, model.localizer(error).window)  # Eq. 2
            g_x, g_y, delta, sigma, gamma = (value.double() for value in step.window)
            f_x, f_y = kernels(g_x, delta, sigma, 9, 27), kernels(g_y, delta, sigma, 9, 20)
            gamma = gamma[:, None, None, None]
            patch = gamma * torch.einsum("bjh,bchw,biw->bcji", f_y, error.double(), f_x)  # Eq. 3 and 11
            torch.testing.assert_close(step.patch_read, patch.float(), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(step.code, model.coder.encode(step.patch_read).z)  # Eq. 4
            torch.testing.assert_close(step.patch_written, model.coder.decode(step.code))  # Eq. 5
            written = torch.einsum("bjh,bcji,biw->bchw", f_y, step.patch_written.double(), f_x) / gamma  # Eq. 12
            if gain == "unit":
                written = written * delta[:, None, None, None] ** 2
            torch.testing.assert_close(step.write, written.float(), atol=1e-5, rtol=1e-4)
            canvas = canvas + step.write  # Eq. 6
            torch.testing.assert_close(step.canvas, canvas)


def test_the_canvas_is_the_sum_of_the_writes() -> None:
    model = make(background={"bottleneck": 3})
    with torch.no_grad():
        output: Output = model(images())
    assert output.canvases.shape == (4, 2, 1, 20, 27)
    assert output.writes.shape == (3, 2, 1, 20, 27)
    torch.testing.assert_close(output.canvases[0], output.start)
    torch.testing.assert_close(output.canvases[1:], output.start + output.writes.cumsum(dim=0))
    torch.testing.assert_close(output.canvas, output.canvases[-1])


def test_the_canvas_starts_empty_without_a_background() -> None:
    with torch.no_grad():
        assert not make()(images()).start.any()


def test_the_background_paints_the_first_canvas() -> None:
    """Table 2's network sees the image; the first step sees what it left."""
    model = make(background={"bottleneck": 3})
    x = images()
    assert model.background is not None
    with torch.no_grad():
        output: Output = model(x)
        painted = model.background(x)
        torch.testing.assert_close(output.start, painted)
        torch.testing.assert_close(output.steps[0].window, model.localizer(x - painted).window)
    assert float(painted.abs().max()) > 0


def test_the_background_learns_from_the_canvases() -> None:
    model = make(background={"bottleneck": 3})
    assert model.background is not None
    output: Output = model(images())
    torch.autograd.backward((images() - output.canvas).square().mean())
    without = [name for name, value in model.background.named_parameters() if value.grad is None]
    assert without == []
    assert model.background.up.weight.grad is not None
    assert bool(model.background.up.weight.grad.any())


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_any_number_of_steps_can_be_asked_for(steps: int) -> None:
    """Progressive training (2.6) makes fewer; the first ones are the same."""
    model = make()
    with torch.no_grad():
        output: Output = model(images(), steps)
        usual: Output = model(images())
    assert len(output.steps) == steps
    shared = min(steps, 3) + 1
    torch.testing.assert_close(output.canvases[:shared], usual.canvases[:shared])
    torch.testing.assert_close(output.canvas, output.canvases[-1])


def test_images_of_a_batch_do_not_touch_each_other() -> None:
    model = make()
    with torch.no_grad():
        both: Output = model(images())
        alone: Output = model(images()[1:])
    # Another batch is summed in another order, and each step looks at what the ones before it left.
    torch.testing.assert_close(both.canvases[:, 1:], alone.canvases, rtol=1e-3, atol=1e-3)


def test_records_have_the_shapes_they_say() -> None:
    model = make(channels=3, coder={"kind": "variational", "bottleneck": 7})
    with torch.no_grad():
        step = model(images(3)).steps[0]
    assert step.canvas.shape == step.write.shape == (2, 3, 20, 27)
    assert step.patch_read.shape == step.patch_written.shape == (2, 3, 9, 9)
    assert step.filters.x.shape == (2, 9, 27)
    assert step.filters.y.shape == (2, 9, 20)
    assert step.code.shape == (2, 7)
    assert step.divergence is not None
    assert step.divergence.shape == (2,)
    assert step.embedding.shape[0] == 2


@pytest.mark.parametrize("kind", ["seeker", "small", "improved"])
@pytest.mark.parametrize("value", [1e4, 1e20])
def test_absurdly_bright_images_give_no_nan_or_infinity(kind: str, value: float) -> None:
    model = make(localizer={"kind": kind})
    image = (value * images()).requires_grad_()
    output: Output = model(image)
    assert bool(output.canvases.isfinite().all())
    torch.autograd.backward(output.canvas.mean())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters() if parameter.grad is not None)
