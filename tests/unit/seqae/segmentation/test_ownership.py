"""Ownership of pixels, by hand."""

import pytest
import torch
from torch import Tensor

from seqae.attention import Filters, Window
from seqae.model import Output, Step
from seqae.segmentation.ownership import Ownership, energy_shares, own_pixels


def output_of(writes: Tensor, start: Tensor | None = None) -> Output:
    """Records of writes [T, B, C, H, W], the t-th (from 0) in a window centred on column t of row 0."""
    start = torch.zeros_like(writes[0]) if start is None else start
    none = torch.zeros(0)
    filters = Filters(none, none, none, none)
    batch = torch.ones(len(start))
    steps = [
        Step(
            start + writes[: t + 1].sum(dim=0),
            write,
            none,
            none,
            Window(x=t * batch, y=0 * batch, delta=batch, sigma=batch, gamma=batch),
            filters,
            none,
            None,
            none,
        )
        for t, write in enumerate(writes)
    ]
    return Output(start, tuple(steps))


def row(*pixels: float) -> Tensor:
    """One grey image of one row, [1, 1, 1, W]."""
    return torch.tensor([[[pixels]]])


def owners(image: Tensor, output: Output, has_background: bool = False, active_share: float = 0.02) -> list[int]:
    found = own_pixels(image, output, has_background=has_background, active_share=active_share).owners
    assert found.dtype is torch.uint8
    return [int(value) for value in found.flatten()]


def test_a_pixel_belongs_to_the_strongest_write() -> None:
    writes = torch.stack([row(0.9, 0.4, 0.1), row(0.1, -0.6, 0.8)])
    assert owners(row(1, 1, 1), output_of(writes)) == [1, 2, 2]


def test_the_foreground_is_where_the_image_is_and_not_the_canvas() -> None:
    """The halo of a write is no ink, and ink that nothing was written on belongs to someone."""
    writes = torch.stack([row(0.9, 0.9, 0.0, 0.9)])
    assert owners(row(1, 31 / 255, 1, 32 / 255), output_of(writes)) == [1, 0, 1, 1]


def test_with_a_background_network_the_writes_must_have_changed_the_start_as_well() -> None:
    start = row(0.7, 0.2, 0.2, 0.2, 0.5)
    writes = torch.stack([row(0.0, 15 / 255, 0.6, -0.07, 0.4), row(0.02, 0.0, 0.0, 0.0, 0.0)])
    image = row(0.1, 0.9, 0.8, 0.05, 0.55)
    assert owners(image, output_of(writes, start), has_background=True) == [0, 0, 1, 1, 0]
    assert owners(image, output_of(writes, start)) == [1, 1, 1, 1, 0], "the image differs nearly everywhere"


def test_writes_that_are_not_active_own_nothing() -> None:
    writes = torch.stack([row(1.0, 1.0, 0.0), row(0.0, 0.0, 0.19)])
    assert owners(row(1, 1, 1), output_of(writes)) == [1, 1, 1], "1.8 percent of the energy"
    assert owners(row(1, 1, 1), output_of(writes), active_share=0.01) == [1, 1, 2]


def test_a_pixel_that_no_active_write_reaches_is_no_inactive_writes() -> None:
    writes = torch.stack([row(0.0, 0.0, 0.1), row(1.0, 1.0, 0.0)])
    assert owners(row(1, 1, 1), output_of(writes)) == [2, 2, 2]


def test_where_no_write_shows_the_nearest_window_owns() -> None:
    writes = torch.stack([row(1.0, 1e-9, 0.0, 1e-4, 0.01), row(1.0, 0.0, 1e-9, 0.0, 0.0)])
    assert owners(row(1, 1, 1, 1, 1), output_of(writes)) == [1, 2, 2, 2, 1]


def test_nothing_is_active_on_an_image_that_is_dark() -> None:
    """Shares of noise say nothing: 2 percent of one white pixel is the least energy."""
    writes = torch.stack([row(0.1, 0.09), row(0.0, 0.01)])
    found = own_pixels(row(1, 1), output_of(writes), has_background=False)
    assert not found.active.any()
    assert found.owners.tolist() == [[[0, 0]]]


def test_images_of_a_batch_are_owned_one_by_one() -> None:
    writes = torch.cat([torch.stack([row(1, 0), row(0, 1)]), torch.stack([row(0, 1), row(1, 0)])], dim=1)
    found = own_pixels(torch.ones(2, 1, 1, 2), output_of(writes), has_background=False)
    assert found.owners.tolist() == [[[1, 2]], [[2, 1]]]


def test_colours_are_summed_and_the_brightest_one_makes_foreground() -> None:
    image = torch.zeros(1, 3, 1, 2)
    image[0, 2] = 0.2
    writes = torch.zeros(2, 1, 3, 1, 2)
    writes[0, 0, 0], writes[0, 0, 2] = 0.5, -0.5  # 1 in all: signs do not cancel
    writes[1, 0, 1] = 0.8
    assert owners(image, output_of(writes)) == [1, 1]


def test_supports_overlap_and_end_with_the_foreground() -> None:
    writes = torch.stack([row(0.9, 0.4, 0.1, 0.9), row(0.1, 0.6, 0.8, 0.0), row(0.0, 0.0, 0.13, 0.0)])
    found = own_pixels(row(1, 1, 1, 0), output_of(writes), has_background=False)
    assert found.supports[:, 0, 0].tolist() == [
        [True, True, False, False],
        [False, True, True, False],
        [False, False, False, False],
    ]


def test_shares_are_of_each_images_energy() -> None:
    strengths = torch.tensor([[[[2.0]], [[0.3]]], [[[1.0]], [[0.1]]]])  # [T 2, B 2, 1, 1]
    shares = energy_shares(strengths)
    assert shares[:, 0].tolist() == pytest.approx([0.8, 0.2])
    assert shares[:, 1].tolist() == pytest.approx([0.09, 0.01]), "of one white pixel at least"


def test_owners_of_many_steps_fit_a_byte() -> None:
    strengths = torch.zeros(64, 1, 1, 1)
    strengths[63] = 1
    active, foreground = torch.ones(64, 1, dtype=torch.bool), torch.ones(1, 1, 1, dtype=torch.bool)
    found = Ownership(strengths, torch.zeros_like(strengths), active, foreground)
    assert found.owners.item() == 64
