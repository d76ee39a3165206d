"""A reconstruction as a notebook shows it."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from seqae.reconstruction import AttentionStep, Reconstruction
from seqae.rendering.frames import filmstrip


@pytest.fixture
def made() -> Reconstruction:
    """One write on a grey image of 20 x 30."""
    frames = np.zeros((2, 20, 30, 1), np.uint8)
    frames[1, 4:8, 4:8] = 200
    patch, window = np.zeros((8, 8, 1), np.uint8), (2.0, 3.0, 10.0, 11.0)
    step = AttentionStep(6.0, 7.0, 1.0, 0.5, 1.0, window, window, 0.00123, patch, patch, True)
    return Reconstruction(frames[1], frames, (step,), (0.05, 0.00123), frames[0, :, :, 0])


def test_a_notebook_shows_the_film_strip(made: Reconstruction) -> None:
    shown = Image.open(io.BytesIO(made._repr_png_()))
    assert shown.format == "PNG"
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(filmstrip(made)))


def test_a_notebook_says_the_errors_below_it(made: Reconstruction) -> None:
    html = made._repr_html_()
    found = re.search(r'src="data:image/png;base64,([^"]+)"', html)
    assert found is not None
    assert base64.b64decode(found[1]) == made._repr_png_()
    assert "<p>mean squared error 0.05 before the first write, 0.00123 after 1</p>" in html
