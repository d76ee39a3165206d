"""Eq. 13-15 against plain loops."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from seqae.attention import Filters, Window, make_filters
from seqae.config import LossConfig
from seqae.copy_paste import CopyPasteLosses
from seqae.losses import Losses, mseot_weights, step_errors, total_loss
from seqae.model import Output, Step

B, H, W, N = 2, 10, 14, 8

Target = Literal["error", "image"]


def record(
    canvas: Tensor, filters: Filters, patch_read: Tensor, patch_written: Tensor, divergence: Tensor | None = None
) -> Step:
    """A step of which only what the losses read is meant."""
    nothing = torch.zeros(B)
    window = Window(nothing, nothing, nothing, nothing, nothing)
    return Step(canvas, canvas, patch_read, patch_written, window, filters, nothing, divergence, nothing)


def made(
    steps: int, channels: int = 1, gamma: float = 1.0, variational: bool = False, seed: int = 0
) -> tuple[Tensor, Output]:
    """An image and a reconstruction of it made of random numbers."""
    rng = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng)

    records = []
    for _ in range(steps):
        x, y, delta, sigma = random(B) * W, random(B) * H, random(B) + 0.5, random(B) + 0.4
        filters = make_filters(Window(x, y, delta, sigma, torch.full((B,), gamma)), N, H, W)
        canvas, patch = random(B, channels, H, W), random(2, B, channels, N, N)
        records.append(record(canvas, filters, patch[0], patch[1], random(B) if variational else None))
    return random(B, channels, H, W), Output(torch.zeros(B, channels, H, W), tuple(records))


def mse_by_loop(image: Tensor, canvas: Tensor) -> float:
    """Eq. 13, with a mean over channels and images too."""
    total = 0.0
    for at in np.ndindex(*image.shape):
        total += (float(image[at]) - float(canvas[at])) ** 2
    return total / image.numel()


def mseot_by_loop(image: Tensor, output: Output) -> float:
    """Eq. 14, whose weights are divided by their sum: c_t is the canvas after t writes."""
    steps = len(output.steps)
    total = sum((t - 1) ** 2 * mse_by_loop(image, output.steps[t - 1].canvas) for t in range(1, steps + 1))
    return total / sum((t - 1) ** 2 for t in range(1, steps + 1))


def region_by_loop(image: Tensor, output: Output, target: Target) -> float:
    """2.5: what was written against what the same kernels read, without gamma."""
    total, count = 0.0, 0
    for step in output.steps:
        for b, c, j, i in np.ndindex(*step.patch_written.shape):
            gamma = float(step.filters.gamma[b])
            if target == "image":
                weights = step.filters.y[b, j][:, None] * step.filters.x[b, i][None]
                wanted = float((weights * image[b, c]).sum())
            else:
                wanted = float(step.patch_read[b, c, j, i]) / gamma
            total += (float(step.patch_written[b, c, j, i]) / gamma - wanted) ** 2
            count += 1
    return total / count


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("gamma", [1.0, 2.5])
@pytest.mark.parametrize("target", ["error", "image"])
def test_losses_are_those_of_the_loops(channels: int, gamma: float, target: Target) -> None:
    image, output = made(3, channels, gamma)
    config = LossConfig(alpha_region=0.7, alpha_mseot=1.9, region_target=target, alpha_presence=0)
    losses = total_loss(image, output, config)
    region, mseot = region_by_loop(image, output, target), mseot_by_loop(image, output)
    assert float(losses.region) == pytest.approx(region, rel=1e-5)
    assert float(losses.mseot) == pytest.approx(mseot, rel=1e-5)
    assert float(losses.mse) == pytest.approx(mse_by_loop(image, output.canvas), rel=1e-5)
    assert float(losses.total) == pytest.approx(0.7 * region + 1.9 * mseot, rel=1e-5), "Eq. 15"
    assert float(losses.divergence) == 0


def test_errors_of_every_canvas() -> None:
    image, output = made(3, 3)
    errors = step_errors(image, output)
    assert errors.shape == (4, B)
    for t, canvas in enumerate(output.canvases):
        for at in range(B):
            expected = mse_by_loop(image[at : at + 1], canvas[at : at + 1])
            assert float(errors[t, at]) == pytest.approx(expected, rel=1e-5)


def test_weights_are_t_minus_one_squared() -> None:
    """The first canvas has no weight, so a model may use it to look around; the last one has the most."""
    torch.testing.assert_close(mseot_weights(5), torch.tensor([0.0, 1, 4, 9, 16]) / 30)
    for steps in range(1, 12):
        assert float(mseot_weights(steps).sum()) == pytest.approx(1)


def test_other_readings_of_the_weights() -> None:
    torch.testing.assert_close(mseot_weights(4, base="t"), torch.tensor([1.0, 4, 9, 16]) / 30)
    torch.testing.assert_close(mseot_weights(4, normalized=False), torch.tensor([0.0, 1, 4, 9]))
    torch.testing.assert_close(mseot_weights(4, base="t", normalized=False), torch.tensor([1.0, 4, 9, 16]))
    bases: tuple[Literal["t-1", "t"], ...] = ("t-1", "t")
    for base in bases:
        assert mseot_weights(1, base=base, normalized=False).tolist() == [1]


def test_the_config_chooses_the_reading_of_the_weights() -> None:
    image, output = made(3, 3)
    errors = step_errors(image, output).mean(dim=1)[1:]
    literal = total_loss(image, output, LossConfig(mseot_normalized=False)).mseot
    assert float(literal) == pytest.approx(float(errors[1] + 4 * errors[2]), rel=1e-5)
    from_the_first = total_loss(image, output, LossConfig(mseot_weights="t")).mseot
    assert float(from_the_first) == pytest.approx(float(errors[0] + 4 * errors[1] + 9 * errors[2]) / 14, rel=1e-5)


def test_one_step_alone_is_trained_too() -> None:
    """Eq. 14 would weigh it with 0."""
    image, output = made(1)
    losses = total_loss(image, output, LossConfig())
    assert float(losses.mseot) == pytest.approx(mse_by_loop(image, output.steps[0].canvas), rel=1e-5)


def test_the_empty_canvas_has_no_weight() -> None:
    image, output = made(3)
    other = output._replace(start=torch.ones(B, 1, H, W))
    config = LossConfig(alpha_presence=0)  # its price is due by how far the canvas has come
    assert float(total_loss(image, output, config).total) == float(total_loss(image, other, config).total)


def test_better_early_canvases_are_rewarded() -> None:
    """2.5: the same canvases cost less when the good ones come earlier."""
    image, output = made(3)
    half, whole = output.steps[0]._replace(canvas=0.5 * image), output.steps[0]._replace(canvas=image)
    late = output._replace(steps=(half, half, whole))
    early = output._replace(steps=(half, whole, whole))
    assert total_loss(image, early, LossConfig()).mseot < total_loss(image, late, LossConfig()).mseot


@pytest.mark.parametrize("target", ["error", "image"])
def test_gamma_alone_can_not_lower_the_region_loss(target: Target) -> None:
    """A model that reads gamma times as much, and writes gamma times as much, is as good as before."""
    found = []
    for gamma in (0.1, 1.0, 8.0):
        image, output = made(2, gamma=gamma)
        steps = tuple(
            step._replace(patch_read=gamma * step.patch_read, patch_written=gamma * step.patch_written)
            for step in output.steps
        )
        found.append(float(total_loss(image, output._replace(steps=steps), LossConfig(region_target=target)).region))
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)
    assert found[0] > 0.01


def region_gradients(target: Target, *, moves_window: bool = False) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Of the region loss, by the kernels, by the patch that was read, and by the patch that was written."""
    image, output = made(2)
    step = output.steps[0]
    f_x, patch = step.filters.x.requires_grad_(), step.patch_read.requires_grad_()
    written = step.patch_written.requires_grad_()
    config = LossConfig(alpha_region=1, alpha_mseot=0, region_target=target, region_moves_window=moves_window)
    torch.autograd.backward(total_loss(image, output, config).total)
    assert written.grad is not None
    return f_x.grad, patch.grad, written.grad


@pytest.mark.parametrize("target", ["error", "image"])
def test_a_window_earns_nothing_by_looking_where_little_is_missing(target: Target) -> None:
    """The target is fixed: only what was written can come nearer to it."""
    f_x, patch, written = region_gradients(target)
    assert f_x is None
    assert patch is None
    assert bool(written.any())


def test_the_papers_target_moves_the_window() -> None:
    f_x, patch, written = region_gradients("image", moves_window=True)
    assert f_x is not None
    assert bool(f_x.any())
    assert patch is None
    assert bool(written.any())


def test_divergence_counts_with_its_weight() -> None:
    image, output = made(3, variational=True)
    without = total_loss(image, output, LossConfig(beta=0))
    losses = total_loss(image, output, LossConfig(beta=0.3))
    assert float(losses.divergence) > 0.1
    assert float(losses.total - without.total) == pytest.approx(0.3 * float(losses.divergence), rel=1e-5)


def test_codes_of_writes_that_do_nothing_are_free_to_be_anything() -> None:
    image, output = made(2, variational=True)
    output = writing(output, [[0.0, 5.0], [15.0, 0.0]], 1.0)  # presences of 0 and 1/2, then of 3/4 and 0
    first, second = (step.divergence for step in output.steps)
    assert first is not None
    assert second is not None
    # Each image has one write that does something.
    expected = (float(first[1]) + float(second[0])) / 2
    assert float(total_loss(image, output, LossConfig()).divergence) == pytest.approx(expected)


def test_within_an_image_codes_count_by_how_present_their_writes_are() -> None:
    image, output = made(2, variational=True)
    output = writing(output, [[5.0, 5.0], [15.0, 5.0]], 1.0)  # presences of 1/2 and 3/4 in the first image
    first, second = (step.divergence for step in output.steps)
    assert first is not None
    assert second is not None
    of_images = ((first[0] / 2 + second[0] * 3 / 4) / (5 / 4), (first[1] + second[1]) / 2)
    assert float(total_loss(image, output, LossConfig()).divergence) == pytest.approx(float(sum(of_images)) / 2)


def writing(output: Output, energies: list[list[float]], stride: float) -> Output:
    """The same with writes of such energies, step by step, of two images, in windows of that stride."""
    side = torch.ones(H, W).div(H * W).sqrt()  # of energy 1
    steps = [
        step._replace(
            write=torch.stack([energy**0.5 * side[None] for energy in of_images]),
            window=step.window._replace(delta=torch.full((2,), stride)),
        )
        for step, of_images in zip(output.steps, energies, strict=True)
    ]
    return output._replace(steps=tuple(steps))


@pytest.mark.parametrize("stride", [1.0, 0.5])
def test_a_write_counts_by_its_energy_in_its_window(stride: float) -> None:
    image, output = made(3)
    energies = [[energy * stride**2 for energy in row] for row in ([0.0, 5.0], [20.0, 0.0], [0.0, 45.0])]
    losses = total_loss(image, writing(output, energies, stride), LossConfig(alpha_presence=0.3))
    assert float(losses.presence) == pytest.approx((20 / 25 + 5 / 10 + 45 / 50) / 2)


def test_an_image_pays_for_its_writes_by_what_they_rebuild() -> None:
    """One image is rebuilt but for a tenth of its canvas; of the other the writes take nothing away."""
    image, output = made(2)
    output = writing(output, [[0.0, 5.0], [20.0, 0.0]], 1.0)
    last = torch.stack([0.9 * image[0], -image[1]])
    steps = (*output.steps[:-1], output.steps[-1]._replace(canvas=last))
    output = Output(torch.zeros_like(image), steps)
    losses, without = (total_loss(image, output, LossConfig(alpha_presence=alpha)) for alpha in (0.3, 0))
    due = 0.3 * (1 - 0.1**2) * (20 / 25) / 2
    assert float(losses.total - without.total) == pytest.approx(due, rel=1e-4)


def test_a_black_image_on_an_empty_canvas_costs_nothing() -> None:
    image, output = made(2)
    output = writing(output, [[0.0, 0.0], [0.0, 0.0]], 1.0)
    black = torch.zeros_like(image)
    steps = tuple(step._replace(canvas=black) for step in output.steps)
    assert float(total_loss(black, Output(black, steps), LossConfig()).total) == 0


def test_the_price_moves_the_writes_alone() -> None:
    """How much an image is rebuilt only weighs its price: else a worse canvas would be a way to pay less."""
    image, output = made(2)
    output = writing(output, [[2.0, 5.0], [20.0, 3.0]], 1.0)
    last = torch.stack([0.9 * image[0], 0.5 * image[1]]).requires_grad_()
    steps = (output.steps[0], output.steps[1]._replace(canvas=last))
    write = steps[0].write.requires_grad_()
    config = LossConfig(alpha_region=0, alpha_mseot=0, alpha_presence=0.3)
    torch.autograd.backward(total_loss(image, Output(torch.zeros_like(image), steps), config).total)
    assert last.grad is not None
    assert not last.grad.any()
    for b, (energy, rebuilt) in enumerate(((2.0, 1 - 0.1**2), (5.0, 1 - 0.5**2))):
        by_hand = 0.3 / 2 * rebuilt * 2 * write[b] * 5 / (energy + 5) ** 2
        assert write.grad is not None
        torch.testing.assert_close(write.grad[b], by_hand.detach())


def test_the_divergence_moves_the_codes_alone() -> None:
    """Else a write could do less to have its code weigh less."""
    image, output = made(2, variational=True)
    output = writing(output, [[0.0, 5.0], [15.0, 0.0]], 1.0)
    write = output.steps[1].write.requires_grad_()
    divergences = [step.divergence for step in output.steps]
    for divergence in divergences:
        assert divergence is not None
        divergence.requires_grad_()
    config = LossConfig(alpha_region=0, alpha_mseot=0, alpha_presence=0, beta=0.3)
    torch.autograd.backward(total_loss(image, output, config).total)
    assert write.grad is not None
    assert not write.grad.any()
    weights = torch.tensor([[0, 1 / 2], [1 / 2, 0]])  # the one write of each image that does something
    for divergence, weight in zip(divergences, weights, strict=True):
        assert divergence is not None
        assert divergence.grad is not None
        torch.testing.assert_close(divergence.grad, 0.3 * weight)


def test_pasted_images_count_with_their_weights() -> None:
    image, output = made(2)
    pasted = CopyPasteLosses(torch.tensor(0.25), torch.tensor(3.0))
    without = total_loss(image, output, LossConfig())
    losses = total_loss(image, output, LossConfig(alpha_separation=2, alpha_location=0.1), pasted)
    assert float(losses.total - without.total) == pytest.approx(2 * 0.25 + 0.1 * 3, rel=1e-5)
    assert (float(losses.separation), float(losses.location)) == (0.25, 3)
    assert (float(without.separation), float(without.location)) == (0, 0)


def test_only_the_total_is_trained() -> None:
    image, output = made(2)
    output.steps[0].patch_written.requires_grad_()
    losses: Losses = total_loss(image, output, LossConfig())
    assert losses.total.requires_grad
    assert not any(part.requires_grad for part in losses[1:])
