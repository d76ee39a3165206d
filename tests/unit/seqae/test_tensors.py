import numpy as np
import pytest
import torch

from seqae.tensors import VIEW_DRAWS, intensities, random_views


def test_bytes_become_intensities_of_the_same_shape() -> None:
    images = np.array([[0, 51], [204, 255]], np.uint8)
    expected = torch.tensor([[0.0, 0.2], [0.8, 1.0]])
    torch.testing.assert_close(intensities(images), expected)
    torch.testing.assert_close(intensities(torch.from_numpy(images)), expected)
    torch.testing.assert_close(intensities(images.T), expected.T)


def test_read_only_arrays_are_taken_and_left_as_they_are() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(2, 3)[:, ::-1]
    before = images.copy()
    intensities(images).zero_()
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("device", ["meta", torch.device("meta")])
def test_the_device_is_the_one_asked_for(device: torch.device | str) -> None:
    assert intensities(np.zeros((2, 2), np.uint8), device).device.type == "meta"
    assert intensities(torch.zeros(2, dtype=torch.uint8, device=device)).device.type == "meta"


def _ramp(count: int) -> torch.Tensor:
    """Images [n, 2, 8, 12]: one channel grows to the right, the other downwards."""
    right, down = torch.arange(12.0).expand(8, -1), torch.arange(8.0)[:, None].expand(-1, 12)
    return torch.stack([right, down]).repeat(count, 1, 1, 1)


def test_images_stay_whole_where_nothing_is_asked_for() -> None:
    image = _ramp(3)
    assert random_views(image, 0.0, False, torch.rand(3, VIEW_DRAWS)) is image


def test_every_second_image_is_mirrored_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    image = _ramp(200)
    flipped = random_views(image, 0.0, True, torch.rand(200, VIEW_DRAWS))
    mirrored = flipped[:, 0, 0, 0] > 6
    assert 60 < int(mirrored.sum()) < 140
    torch.testing.assert_close(flipped[~mirrored], image[~mirrored], atol=1e-4, rtol=0)
    torch.testing.assert_close(flipped[mirrored], image[mirrored].flip(3), atol=1e-4, rtol=0)


def test_crops_are_parts_of_the_image_up_to_the_share_asked_for() -> None:
    torch.manual_seed(0)
    image = _ramp(200)
    views = random_views(image, 0.5, False, torch.rand(200, VIEW_DRAWS))
    assert views.shape == image.shape
    spans = views[:, 0, 0, -1] - views[:, 0, 0, 0]
    assert (spans > 0).all(), "none is mirrored"
    shares = spans / 11
    assert 0.4 < float(shares.min()) < 0.6
    assert 0.9 < float(shares.max()) <= 1.0
    down = (views[:, 1, -1, 0] - views[:, 1, 0, 0]) / 7
    torch.testing.assert_close(down, shares, atol=0.1, rtol=0)  # the image's own aspect
    assert views[:, 0].min() >= 0
    assert views[:, 0].max() <= 11
    small = spans < 7
    assert views[small, 0, 0, 0].std() > 1, "parts lie anywhere"


def test_an_image_is_varied_by_its_own_numbers_whatever_is_beside_it() -> None:
    torch.manual_seed(0)
    drawn = torch.rand(4, VIEW_DRAWS)
    together = random_views(_ramp(4), 0.3, True, drawn)
    alone = torch.cat([random_views(_ramp(1), 0.3, True, drawn[at : at + 1]) for at in range(4)])
    torch.testing.assert_close(together, alone)
    assert (together != random_views(_ramp(4), 0.3, True, drawn.flip(0))).any()
