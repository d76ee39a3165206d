"""The bodies in which a reconstruction is answered."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.interfaces import ModelVersion
from seqae.reconstruction import AttentionStep, Reconstruction
from service.api.picture_checks import PictureChecks
from service.api.renderings import render_reconstruction
from service.schemas.models import MediaType, ReconstructionView

VERSION = ModelVersion("seqae", "7", "run_7", "job_7", Path("x"), {"test/mse": 0.1}, is_champion=True)
CHECKS = PictureChecks(explained=0.25, warnings=("little of the picture was rebuilt",), inverted=True)
STEP_ARRAYS = ("x", "y", "stride", "sigma", "gamma", "window", "source_window", "patch_read", "patch_written", "active")


def an_image(value: int, size: int = 8) -> np.ndarray:
    return np.full((size, size, 1), value, dtype=np.uint8)


def a_step(offset: float) -> AttentionStep:
    """A window of 4 pixels of the model's image, which stand for 12 of the picture; no two numbers are the same."""
    return AttentionStep(
        x=2.0 + offset,
        y=3.0 + offset,
        stride=0.75 + offset,
        sigma=0.25 + offset,
        gamma=0.5 + offset,
        window=(0.5 + offset, 1.5 + offset, 4.5 + offset, 5.5 + offset),
        source_window=(20.0 + offset, 10.0 + offset, 32.0 + offset, 22.0 + offset),
        error=0.01 + offset,
        patch_read=an_image(int(60 + offset), 4),
        patch_written=an_image(int(70 + offset), 4),
        active=offset == 0,
    )


@pytest.fixture
def found() -> Reconstruction:
    frames = np.stack([an_image(0), an_image(10), an_image(20)])
    owners = np.repeat(np.array([0, 1, 1, 2], np.uint8), 2) * np.ones((8, 1), np.uint8)
    return Reconstruction(an_image(200), frames, (a_step(0), a_step(1)), (0.5, 0.01, 1.01), owners)


def test_arrays_hold_every_field_of_every_step(found: Reconstruction) -> None:
    with np.load(BytesIO(render_reconstruction(MediaType.NPZ, found, VERSION, CHECKS)), allow_pickle=False) as arrays:
        assert set(arrays) == {"input", "frames", "error", "model", "owners", *STEP_ARRAYS}
        np.testing.assert_array_equal(arrays["input"], found.input)
        np.testing.assert_array_equal(arrays["frames"], found.frames)
        assert tuple(arrays["error"]) == found.error
        np.testing.assert_array_equal(arrays["owners"], found.owners)
        assert (arrays["owners"].dtype, arrays["active"].dtype) == (np.uint8, np.bool_)
        assert list(arrays["model"]) == ["seqae", "7", "run_7"]
        for name in STEP_ARRAYS:
            np.testing.assert_array_equal(arrays[name], [getattr(step, name) for step in found.steps], name)


def test_json_tells_steps_in_pixels_of_the_picture_and_of_the_model(found: Reconstruction) -> None:
    view = ReconstructionView.model_validate_json(render_reconstruction(MediaType.JSON, found, VERSION, CHECKS))
    assert (view.width, view.height, view.error) == (8, 8, found.error)
    assert view.model.model_dump() == {
        "name": "seqae",
        "version": "7",
        "run_id": "run_7",
        "job_id": "job_7",
        "metrics": {"test/mse": 0.1},
    }
    images = [np.asarray(Image.open(BytesIO(base64.b64decode(text)))) for text in (view.input, *view.frames)]
    assert [int(image[0, 0]) for image in images] == [200, 0, 10, 20]
    assert (view.explained, view.warnings, view.inverted) == (0.25, CHECKS.warnings, True)
    owners = np.asarray(Image.open(BytesIO(base64.b64decode(view.owners))))
    np.testing.assert_array_equal(owners, found.owners)
    assert [(step.active, step.pixels) for step in view.steps] == [(True, 32), (False, 16)]
    step = view.steps[0]
    # The window's left edge is half a pixel left of the first pixel's centre, and the picture's pixels are a third.
    assert (step.x, step.y) == (20 + 3 * (2.0 + 0.5 - 0.5) - 0.5, 10 + 3 * (3.0 + 0.5 - 1.5) - 0.5)
    assert (step.stride, step.sigma, step.gamma, step.error) == (3 * 0.75, 3 * 0.25, 0.5, 0.01)
    assert step.window.model_dump() == {"left": 20.0, "top": 10.0, "right": 32.0, "bottom": 22.0}
    inside = step.in_model
    assert (inside.x, inside.y, inside.stride, inside.sigma) == (2.0, 3.0, 0.75, 0.25)
    assert inside.window.model_dump() == {"left": 0.5, "top": 1.5, "right": 4.5, "bottom": 5.5}


@pytest.mark.parametrize(("media_type", "frames"), [(MediaType.GIF, 3), (MediaType.PNG, 1)])
def test_pictures_have_a_frame_for_each_canvas_or_all_in_one(
    found: Reconstruction, media_type: MediaType, frames: int
) -> None:
    with Image.open(BytesIO(render_reconstruction(media_type, found, VERSION, CHECKS))) as image:
        assert Image.MIME[image.format or ""] == media_type
        assert getattr(image, "n_frames", 1) == frames
