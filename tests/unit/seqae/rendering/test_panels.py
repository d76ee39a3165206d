import subprocess
import sys

import numpy as np
import pytest

from seqae.rendering.panels import STEP_COLOURS, owner_colours, panel, picture, quantize, to_bytes


def test_intensities_are_clipped_and_rounded() -> None:
    assert quantize(np.array([-1.0, 0.0, 0.6 / 255, 0.4 / 255, 0.5, 1.0, 3.0])).tolist() == [0, 0, 1, 0, 128, 255, 255]


def test_owners_have_the_colours_of_their_steps() -> None:
    made = owner_colours(np.array([[0, 1], [2, len(STEP_COLOURS) + 1]], np.uint8))
    assert made.dtype == np.uint8
    assert made.shape == (2, 2, 3)
    first, second = (tuple(bytes.fromhex(colour[1:])) for colour in STEP_COLOURS[:2])
    assert [tuple(pixel) for pixel in made.reshape(4, 3).tolist()] == [(0, 0, 0), first, second, first]


def test_channels_go_last() -> None:
    images = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5) / 255
    made = to_bytes(images)
    assert made.shape == (2, 4, 5, 3)
    assert made[1, 2, 3].tolist() == [60 + 13, 60 + 20 + 13, 60 + 40 + 13]
    np.testing.assert_array_equal(to_bytes(images[1]), made[1])


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (2, 3, 3)])
def test_a_panel_repeats_pixels_and_keeps_the_aspect(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    shown = np.asarray(panel(image, 8))
    assert shown.shape == (8, 12, 3)
    expected = image.reshape(2, 3, -1).repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(shown, np.broadcast_to(expected, (8, 12, 3)))


@pytest.mark.parametrize("image", [np.zeros((4, 4, 4), np.uint8), np.zeros((1, 4, 4, 3), np.uint8), np.zeros((4, 4))])
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not an image"):
        picture(image)
    with pytest.raises(ValueError, match="not an image"):
        panel(image, 8)


def test_panels_do_not_import_torch() -> None:
    code = "import sys, seqae.rendering.panels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
