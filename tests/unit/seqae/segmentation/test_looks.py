"""Looking again, against the same thing done image by image and write by write."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from seqae.attention import Filters, read, write
from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.model import Output, SequentialAutoEncoder
from seqae.networks import Code
from seqae.segmentation.looks import look_again
from seqae.segmentation.ownership import Ownership, own_pixels
from seqae.tensors import intensities
from tests.untrained import with_random_writes

Make = Callable[..., TrainConfig]
Data = Callable[[TrainConfig], Dataset]


class Case:
    """An untrained model that writes something, images, and what it made of them."""

    def __init__(self, config: TrainConfig, data: Dataset) -> None:
        torch.manual_seed(0)
        self.model = with_random_writes(SequentialAutoEncoder(config.model)).eval()
        with torch.no_grad():
            for parameter in self.model.localizer.head.parameters():  # type: ignore[union-attr]
                parameter.normal_(std=0.3)
            nn.init.constant_(self.model.coder.decoder[-1].bias, 0.2)  # type: ignore[arg-type]
        self.image = intensities(data.test.images)
        with torch.no_grad():
            self.output: Output = self.model(self.image)
        self.first = own_pixels(self.image, self.output, has_background=self.model.background is not None)
        self.first.active[0, ::3] = self.first.active[2, 1] = False  # as if these had written next to nothing

    def look(self, looks: int) -> Ownership:
        with torch.no_grad():
            return look_again(self.model, self.image, self.output, self.first, looks)


@pytest.fixture(scope="module", params=[1, 3])
def case(request: pytest.FixtureRequest, small_config: Make, small_data: Data) -> Case:
    model = {"channels": 3, "background": {"bottleneck": 4}} if request.param == 3 else {}
    config = small_config(model=model | {"attention": {"log_gamma_max": 1.0, "write_gain": "unit"}})
    return Case(config, small_data(config))


def _looked_at(case: Case, image: int, weights: dict[int, Tensor]) -> dict[int, Tensor]:
    """What the active steps of one image write of it, [H, W] each: the sum over channels of the absolute value."""
    found = {}
    for t, step in enumerate(case.output.steps):
        if case.first.active[t, image]:
            filters = Filters(*(values[image : image + 1] for values in step.filters))
            shown = case.image[image : image + 1] - case.output.start[image : image + 1]
            with torch.no_grad():
                z = case.model.coder.encode(read(shown * weights.get(t, torch.ones(1)), filters)).z
                found[t] = write(case.model.coder.decode(z), filters, "unit")[0].abs().sum(dim=0)
    return found


def _weights(strengths: dict[int, Tensor]) -> dict[int, Tensor]:
    total = sum((each.square() for each in strengths.values()), torch.zeros(1))
    return {t: (each.square() / total).nan_to_num() for t, each in strengths.items()}


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_all_images_at_once_are_what_each_write_is_alone(case: Case, looks: int) -> None:
    found = case.look(looks)
    for image in range(len(case.image)):
        strengths: dict[int, Tensor] = {}
        for _ in range(looks):
            strengths = _looked_at(case, image, _weights(strengths))
        assert strengths, "a case that can tell"
        for t in range(3):
            expected = strengths.get(t, torch.zeros(case.image.shape[2:]))
            torch.testing.assert_close(found.strengths[t, image], expected, rtol=1e-3, atol=1e-5)


def test_what_is_not_active_stays_out(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    patches: list[int] = []
    encode = case.model.coder.encode

    def counted(patch: Tensor) -> Code:
        patches.append(len(patch))
        return encode(patch)

    monkeypatch.setattr(case.model.coder, "encode", counted)
    found = case.look(2)
    assert patches == [int(case.first.active.sum())] * 2, "one call of the coder a look, of the active writes alone"
    assert 0 < patches[0] < case.first.active.numel()
    assert not found.strengths[~case.first.active].any()
    assert torch.equal(found.active, case.first.active)
    assert torch.equal(found.foreground, case.first.foreground)
    owners = found.owners
    for t in range(3):
        assert not (owners[~case.first.active[t]] == t + 1).any()


def test_looking_changes_owners(case: Case) -> None:
    assert not torch.equal(case.look(2).owners, case.first.owners)
    assert not torch.equal(case.look(1).strengths, case.look(2).strengths)


def test_no_look_changes_nothing(case: Case) -> None:
    assert case.look(0) is case.first


def test_images_without_an_active_write_need_no_look(case: Case) -> None:
    nothing = case.first._replace(active=torch.zeros_like(case.first.active))
    assert look_again(case.model, case.image, case.output, nothing) is nothing


class FadingCopy(nn.Module):
    """A coder without a bottleneck that shows the middle columns of a patch better than the outer ones."""

    def encode(self, patch: Tensor) -> Code:
        return Code((patch * torch.exp(-0.5 * (torch.arange(-4.5, 5.5) / 3) ** 2)).flatten(1), None)

    def decode(self, z: Tensor) -> Tensor:
        return z.view(-1, 1, 10, 10)


def test_a_neighbours_ink_fades_from_look_to_look(small_config: Make) -> None:
    """Two windows on two halves of a bar: of a pixel that both show, the nearer one keeps ever more."""
    config = small_config(model={"steps": 2})
    model = with_random_writes(SequentialAutoEncoder(config.model)).eval()
    image = torch.zeros(1, 1, 24, 28)
    image[0, 0, 10:14, 8:20] = 1
    with torch.no_grad():
        output: Output = model(image)
    moved = []
    for step, centre in zip(output.steps, (10.5, 16.5), strict=True):
        columns = torch.exp(-0.5 * ((torch.arange(28) - centre - torch.arange(-4.5, 5.5)[:, None]) / 0.5) ** 2)
        rows = torch.exp(-0.5 * ((torch.arange(24) - 11.5 - torch.arange(-4.5, 5.5)[:, None]) / 0.5) ** 2)
        filters = step.filters._replace(
            x=(columns / columns.sum(1, keepdim=True))[None], y=(rows / rows.sum(1, keepdim=True))[None]
        )
        moved.append(step._replace(filters=filters))
    model.coder = FadingCopy()  # type: ignore[assignment]  # satisfies `Coder`
    active = torch.ones(2, 1, dtype=torch.bool)
    first = Ownership(torch.ones(2, 1, 24, 28), torch.zeros(2, 1, 24, 28), active, image[:, 0] > 0.5)
    with torch.no_grad():
        looks = [look_again(model, image, Output(output.start, tuple(moved)), first, n).strengths for n in (1, 2)]
    left, right = looks[1][:, 0, 12, 9].tolist(), looks[1][:, 0, 12, 18].tolist()
    assert left[0] > left[1]
    assert right[1] > right[0]
    shares = [each[1, 0, 12, 11] / each[:, 0, 12, 11].sum() for each in looks]
    assert shares[1] < shares[0], "of a pixel that both windows show"
