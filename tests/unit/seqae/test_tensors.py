import numpy as np
import pytest
import torch

from seqae.tensors import intensities


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
