"""Images composed of what was found in two others, and the losses on them against plain loops."""

import math
from collections import Counter
from typing import Literal

import pytest
import torch
from torch import Tensor

from seqae.attention import Filters, Window, make_filters, read
from seqae.config import ModelConfig
from seqae.copy_paste import Composition, compose, copy_paste_losses, partners, presence, sample_steps
from seqae.model import Output, SequentialAutoEncoder, Step
from seqae.networks import Code, Seeker

SIDE, N = 40, 12


def window_at(places: list[tuple[float, float]], delta: float = 1.0) -> Window:
    x, y = (torch.tensor([float(place[axis]) for place in places]) for axis in (0, 1))
    return Window(x, y, torch.full_like(x, delta), torch.full_like(x, 0.5), torch.ones_like(x))


def square(x: int, y: int, value: float, size: int = 3) -> Tensor:
    """An image [1, SIDE, SIDE] of one square around a pixel."""
    image = torch.zeros(1, SIDE, SIDE)
    image[:, y - size // 2 : y + size // 2 + 1, x - size // 2 : x + size // 2 + 1] = value
    return image


def two_scenes() -> tuple[Tensor, Window]:
    """A bright square at (12, 15), and a faint one at (25, 20)."""
    return torch.stack([square(12, 15, 1.0), square(25, 20, 0.5)]), window_at([(12, 15), (25, 20)])


def uniform(seed: int, count: int = 3) -> Tensor:
    """Numbers for two images."""
    return torch.rand(2, count, generator=torch.Generator().manual_seed(seed))


def composed(error: Tensor, write: Tensor, window: Window, seed: int) -> Composition:
    return compose(error, write, window, N, uniform(seed)[:, 1:])


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0]), (2, [1, 0]), (3, [2, 0, 1]), (4, [1, 0, 3, 2]), (7, [2, 0, 1, 4, 3, 6, 5])],
)
def test_neighbours_lend_each_other_their_objects(count: int, expected: list[int]) -> None:
    assert partners(count, torch.device("cpu")).tolist() == expected


@pytest.mark.parametrize("seed", range(20))
def test_the_neighbours_object_is_pasted_whole_at_the_place_that_is_named(seed: int) -> None:
    error, window = two_scenes()
    made = composed(error, error, window, seed)
    for at, value in enumerate((0.5, 1.0)):
        pasted = square(int(made.x[at]), int(made.y[at]), value)
        torch.testing.assert_close(made.error[at], torch.maximum(error[at], pasted))


def test_the_two_are_as_far_apart_as_parts_of_a_window() -> None:
    error, window = two_scenes()
    found = []
    for seed in range(100):
        made = composed(error, error, window, seed)
        found += torch.hypot(made.x - window.x, made.y - window.y).tolist()
    assert 0.35 * N - 1 < min(found) < 0.4 * N
    assert 0.8 * N < max(found) < 0.9 * N + 1, "whole pixels may be one off"


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_pasted_over_the_edge(seed: int) -> None:
    window = window_at([(1, 38), (38, 2)])
    error = torch.stack([square(1, 38, 1.0), square(38, 2, 1.0)])
    made = composed(error, error, window, seed)
    for centre in (made.x, made.y):
        assert bool(((centre >= 7) & (centre <= SIDE - 8)).all())


def test_where_both_objects_have_ink_the_stronger_shows() -> None:
    error, window = torch.stack([square(16, 18, 1.0, 9), square(25, 20, 0.5, 9)]), window_at([(16, 18), (25, 20)])
    overlaps = 0
    for seed in range(20):
        made = composed(error, error, window, seed)
        for at, value in enumerate((0.5, 1.0)):
            pasted = square(int(made.x[at]), int(made.y[at]), value, 9)
            torch.testing.assert_close(made.error[at], torch.maximum(error[at], pasted))
            overlaps += bool(((pasted > 0) & (error[at] > 0)).any())
    assert overlaps > 10


@pytest.mark.parametrize("places", [[(9, 9), (31, 31)], [(1, 38), (38, 2)]])
def test_at_the_edge_the_object_is_pasted_on_the_other_side(places: list[tuple[float, float]]) -> None:
    """Held at the edge in place of that, it would lie on the first object."""
    error = torch.stack([square(int(x), int(y), 1.0) for x, y in places])
    window = window_at(places)
    for seed in range(50):
        made = composed(error, error, window, seed)
        apart = torch.hypot(made.x - window.x, made.y - window.y)
        assert float(apart.min()) >= 0.35 * N - 0.75, "but for whole pixels"


def test_presence_is_raised_by_writing_and_not_by_a_smaller_window() -> None:
    write, delta = torch.ones(2, 1, 3, 3, requires_grad=True), torch.tensor([0.5, 1.0], requires_grad=True)
    found = presence(write, delta)
    torch.testing.assert_close(found, 9 / (9 + 5 * torch.tensor([0.25, 1.0])))
    torch.autograd.backward(found.sum())
    assert delta.grad is None
    assert write.grad is not None
    assert bool((write.grad > 0).all())


def test_only_what_the_write_explains_is_the_object() -> None:
    error, window = two_scenes()
    stray = error + torch.stack([square(30, 33, 0.7), square(5, 33, 0.7)])
    for seed in range(5):
        made = composed(stray, 0.6 * error, window, seed)
        expected = composed(error, error, window, seed)
        kept = torch.where(expected.error > stray, expected.error, stray)
        torch.testing.assert_close(made.error, kept)
        nothing = composed(stray, 0.4 * error, window, seed)
        torch.testing.assert_close(nothing.error, stray)


def test_colours_and_darker_parts_are_pasted_too() -> None:
    error, window = two_scenes()
    colours = torch.cat([error, -error, 0.5 * error], dim=1)
    made = composed(colours, colours, window, 3)
    grey = composed(error, error, window, 3)
    torch.testing.assert_close(made.error, torch.cat([grey.error, -grey.error, 0.5 * grey.error], dim=1))


def test_a_seed_decides_what_is_composed() -> None:
    error, window = two_scenes()
    one, two, other = (composed(error, error, window, seed) for seed in (5, 5, 6))
    torch.testing.assert_close(one, two)
    assert not torch.equal(one.error, other.error)


class Copy(torch.nn.Module):
    """A coder that writes what it reads."""

    def encode(self, patch: Tensor, noise: Tensor | None = None) -> Code:
        return Code(patch, None)

    def decode(self, z: Tensor) -> Tensor:
        return z


def trained(kind: str = "seeker", sizes: tuple[int, ...] = (20,)) -> tuple[SequentialAutoEncoder, Tensor, Output]:
    """A model that copies, and its first write of two scenes: all that is there."""
    torch.manual_seed(0)
    localizer = {"kind": kind, "sizes": sizes}
    given = {"height": SIDE, "width": SIDE, "attention": {"kernel_size": N}, "localizer": localizer}
    model = SequentialAutoEncoder(ModelConfig.model_validate(given))
    model.coder = Copy()  # type: ignore[assignment]
    error, window = two_scenes()
    filters = make_filters(window, N, SIDE, SIDE)
    patch = read(error, filters)
    step = Step(error, error, patch, patch, window, filters, patch, None, patch)
    return model, error, Output(torch.zeros_like(error), (step,))


def test_a_copy_of_both_is_wrong_by_what_was_pasted() -> None:
    model, error, output = trained()
    window, filters = output.steps[0].window, output.steps[0].filters
    losses = copy_paste_losses(model, error, output, uniform(1))
    both = read(composed(error, error, window, 1).error, filters)
    expected = (both - read(error, filters)).square().mean()
    assert float(expected) > 0
    assert float(losses.separation) == pytest.approx(float(expected))


def test_the_background_is_not_pasted() -> None:
    model, error, output = trained()
    plain = copy_paste_losses(model, error, output, uniform(1))
    painted = output._replace(start=torch.full_like(error, 0.3))
    torch.testing.assert_close(copy_paste_losses(model, error + 0.3, painted, uniform(1)), plain)


@pytest.mark.parametrize("sizes", [(20,), (12, 20, 28)])
def test_location_is_the_likelihood_of_a_choice_at_either_object(sizes: tuple[int, ...]) -> None:
    model, error, output = trained(sizes=sizes)
    seeker = model.localizer
    assert isinstance(seeker, Seeker)
    torch.nn.init.normal_(seeker.score.weight, std=3.0)
    step = output.steps[0]
    window = step.window._replace(delta=torch.tensor([0.4, 1.3]))
    output = output._replace(steps=(step._replace(window=window),))
    losses = copy_paste_losses(model, error, output, uniform(2))
    made = composed(error, error, window, 2)
    logits = seeker.score_anchors(made.error).logits.detach()
    total = 0.0
    for b in range(2):
        objects = [(float(window.x[b]), float(window.y[b])), (float(made.x[b]), float(made.y[b]))]
        places = zip(seeker.cell_x.tolist(), seeker.cell_y.tolist(), strict=True)
        away = [min(math.dist(place, at) for at in objects) for place in places]
        hits = [far < 3 or far == min(away) for far in away]
        chances = [math.exp(float(logit)) for logit in logits[b]]
        reach = 0.75 * N * float(window.delta[b])
        around = sum(chances[i] for i in range(len(chances)) if away[i] < max(reach, 6) or hits[i])
        total += math.log(around / sum(chances[i] for i in range(len(chances)) if hits[i]))
    energies = [9 / (9 + 5 * 0.4**2), 9 * 0.25 / (9 * 0.25 + 5 * 1.3**2)]  # squares of 3 x 3, of intensity 1 and 0.5
    assert float(losses.location.detach()) == pytest.approx(math.prod(energies) * total / 2, rel=1e-4)
    assert total > 0.1


def test_steps_are_drawn_for_each_image_by_presence_and_number() -> None:
    """The first write is half an object and the third a whole one: 0.5 / 1 against 0.95 / 3; the second is nothing."""
    _, error, output = trained()
    step = output.steps[0]
    side = torch.full((2, 1, SIDE, SIDE), SIDE**-1.0)  # of energy 1
    steps = tuple(
        step._replace(write=energy**0.5 * side, patch_read=torch.full((2, 1, N, N), float(t)))
        for t, energy in ((1, 5.0), (2, 0.0), (3, 95.0))
    )
    drawn = Counter[int]()
    for seed in range(300):
        found = sample_steps(error, output._replace(steps=steps), uniform(seed)[:, 0])
        drawn.update(int(patch.mean()) for patch in found.patch)
    assert drawn[2] == 0
    assert drawn[1] / drawn[3] == pytest.approx(0.5 / (0.95 / 3), rel=0.25)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_step_is_drawn_of_writes_that_are_nothing_or_not_finite_too(value: float) -> None:
    """The trainer says what is not finite; drawing must not fail before."""
    _, error, output = trained()
    step = output.steps[0]._replace(write=torch.full((2, 1, SIDE, SIDE), value))
    for drawn in (0.0, 0.5, 1 - 2**-24):
        found = sample_steps(error, output._replace(steps=(step, step)), torch.full((2,), drawn))
        assert found.patch.shape == (2, 1, N, N)


def test_a_localizer_without_a_map_learns_from_separation_alone() -> None:
    model, error, output = trained("small")
    losses = copy_paste_losses(model, error, output, uniform(0))
    assert float(losses.location) == 0
    assert float(losses.separation) > 0


def test_what_was_found_gets_no_gradient() -> None:
    model, error, output = trained()
    step = output.steps[0]
    leaves = [step.write, step.patch_read, step.filters.x, step.filters.y, *step.window]
    for leaf in leaves:
        leaf.requires_grad_()
    filters = Filters(*step.filters)
    losses = copy_paste_losses(model, error, output._replace(steps=(step._replace(filters=filters),)), uniform(0))
    torch.autograd.backward(losses.location)
    assert all(leaf.grad is None for leaf in leaves)
    assert isinstance(model.localizer, Seeker)
    assert model.localizer.score.weight.grad is not None
    assert not losses.separation.requires_grad, "this coder has nothing to learn"


@pytest.mark.parametrize("target", ["window", "object"])
def test_the_object_alone_is_without_what_another_write_owns(target: Literal["window", "object"]) -> None:
    """Both squares lie in the window of either step; each write explains one of them."""
    first, second, faint = square(12, 15, 1.0), square(18, 15, 0.8), square(15, 10, 0.3)
    image = torch.stack([first + second + faint] * 2)
    window = window_at([(15, 15)] * 2)
    filters = make_filters(window, N, SIDE, SIDE)
    patch_read = read(image, filters)
    _, _, output = trained()
    steps, canvas = [], torch.zeros_like(image)
    for shown in (first, second):
        canvas = canvas + shown
        steps.append(
            output.steps[0]._replace(
                write=torch.stack([shown] * 2), canvas=canvas, patch_read=patch_read, window=window, filters=filters
            )
        )
    either = [read(torch.stack([shown + faint] * 2), filters)[0] for shown in (first, second)]
    for seed in range(6):
        found = sample_steps(image, Output(torch.zeros_like(image), tuple(steps)), uniform(seed)[:, 0], target)
        for patch in found.patch:
            alone = any(torch.allclose(patch, one, atol=1e-5) for one in either)
            assert alone == (target == "object"), "what no write owns stays"
            assert torch.allclose(patch, patch_read[0], atol=1e-5) == (target == "window")


def test_a_write_that_is_no_object_owns_nothing() -> None:
    first, weak = square(12, 15, 1.0), square(18, 15, 0.05)
    image = torch.stack([first + square(18, 15, 0.8)] * 2)
    window = window_at([(15, 15)] * 2)
    filters = make_filters(window, N, SIDE, SIDE)
    _, _, output = trained()
    steps = tuple(
        output.steps[0]._replace(
            write=torch.stack([shown] * 2),
            canvas=image * 0,
            patch_read=image[..., :N, :N],
            window=window,
            filters=filters,
        )
        for shown in (first, weak)
    )
    # 2 ** -1 is the first write's presence by far, and 1 - 2 ** -24 the last one's.
    found = sample_steps(image, Output(torch.zeros_like(image), steps), torch.tensor([0.5, 1 - 2**-24]), "object")
    of_first = [row for row in range(2) if float(found.write[row].max()) == 1]
    assert of_first
    for row in of_first:
        torch.testing.assert_close(found.patch[row], read(image, filters)[row])
