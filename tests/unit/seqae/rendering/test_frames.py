import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from seqae.reconstruction import AttentionStep, Reconstruction
from seqae.rendering.frames import animation, contact_sheet, filmstrip, png

SKY = (86, 180, 233)  # the first step's colour


def step(window: tuple[float, float, float, float], error: float) -> AttentionStep:
    patch = np.zeros((8, 8, 1), np.uint8)
    x, y = (window[0] + window[2]) / 2, (window[1] + window[3]) / 2
    return AttentionStep(x, y, 1.0, 0.5, 1.0, window, window, error, patch, patch, True)


@pytest.fixture
def made() -> Reconstruction:
    """Two writes on a grey image of 20 x 30: a square at the top left, then one at the bottom right."""
    frames = np.zeros((3, 20, 30, 1), np.uint8)
    frames[1:, 4:8, 4:8] = 200
    frames[2, 12:16, 20:24] = 100
    steps = (step((2, 3, 10, 11), 0.02), step((18.5, 10, 34, 18), 0.001))
    return Reconstruction(frames[2], frames, steps, (0.05, 0.02, 0.001), frames[0, :, :, 0])


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3)}


def test_filmstrip_shows_the_input_and_every_canvas_in_order(made: Reconstruction) -> None:
    strip = filmstrip(made, scale=3)
    assert strip.mode == "RGB"
    assert strip.size == (4 + 4 * (90 + 4), 4 + 60 + 16), "two canvases between the input and the segments"
    array = np.asarray(strip)
    panels = [array[4:64, 4 + at * 94 : 94 + at * 94] for at in range(3)]
    np.testing.assert_array_equal(panels[0], made.input.repeat(3, 0).repeat(3, 1).repeat(3, 2))
    assert panels[1][5 * 3, 5 * 3].tolist() == [200] * 3
    assert not panels[1][13 * 3, 22 * 3].any()
    assert panels[2][13 * 3, 22 * 3].tolist() == [100] * 3


def test_window_is_drawn_where_it_is(made: Reconstruction) -> None:
    array = np.asarray(filmstrip(made, scale=3))
    panel = array[4:64, 98:188]
    rows, columns = np.nonzero((panel == SKY).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (9, 33, 6, 30)
    inside = (panel[10:33, 7:30] == SKY).all(axis=2)
    assert not inside.any(), "an outline, not a filled box"


def test_a_window_over_the_edge_is_open_there(made: Reconstruction) -> None:
    array = np.asarray(filmstrip(made, scale=3))
    panel = array[4:64, 192:282]
    drawn = (panel == (230, 159, 0)).all(axis=2)
    assert drawn[30, 60:89].all(), "the top side"
    assert drawn[31:53, 55].all(), "the left side"
    assert not drawn[33:50, 85:].any(), "no right side: it is outside of the image"


def test_a_window_outside_of_the_image_is_not_an_error(made: Reconstruction) -> None:
    away = replace(made, steps=(step((-50, -50, -40, -40), 0.02), step((100, 100, 130, 130), 0.001)))
    assert filmstrip(away).size == filmstrip(made).size


def test_a_painted_background_is_shown_as_step_0(made: Reconstruction) -> None:
    painted = replace(made, frames=np.maximum(made.frames, 9))
    assert filmstrip(painted).width == filmstrip(made).width + 94


def test_colour_is_kept(made: Reconstruction) -> None:
    frames = np.zeros((3, 20, 30, 3), np.uint8)
    frames[..., 0] = 250
    strip = filmstrip(replace(made, input=frames[2], frames=frames))
    assert (250, 0, 0) in colours(strip)


def _owned(made: Reconstruction) -> Reconstruction:
    """The same with what its two writes own."""
    owners = np.zeros((20, 30), np.uint8)
    owners[4:8, 4:8], owners[12:16, 20:24] = 1, 2
    return replace(made, owners=owners)


def test_the_last_panel_of_a_strip_has_the_segments_in_their_steps_colours(made: Reconstruction) -> None:
    segments = np.asarray(filmstrip(_owned(made), scale=3))[4:64, 4 + 3 * 94 :][:, :90]
    assert segments[5 * 3, 5 * 3].tolist() == list(SKY)
    assert segments[13 * 3, 22 * 3].tolist() == [230, 159, 0]
    assert not segments[0, 0].any()
    assert (segments != 0).any(axis=2).sum() == 9 * 2 * 16


def test_an_animation_shows_the_segments_of_the_steps_so_far(made: Reconstruction) -> None:
    shown = []
    with Image.open(io.BytesIO(animation(_owned(made), scale=4))) as gif:
        for at in range(3):
            gif.seek(at)
            segments = np.asarray(gif.convert("RGB")).astype(int)[4:84, 4 + 2 * 124 :][:, :120]
            shown.append([bool(segments[row * 4, column * 4].sum() > 100) for row, column in ((5, 5), (13, 22))])
    assert shown == [[False, False], [True, False], [True, True]]


def test_captions_name_step_and_error(made: Reconstruction) -> None:
    other = replace(made, error=(0.05, 0.03, 0.001))
    one, two = (np.asarray(filmstrip(each)) for each in (made, other))
    changed = np.argwhere((one != two).any(axis=2))
    assert (changed[:, 0] >= 64).all(), "in the line below the panels"
    assert ((changed[:, 1] >= 98) & (changed[:, 1] < 188)).all(), "of the first step"


def test_animation_has_a_frame_per_step_and_repeats(made: Reconstruction) -> None:
    with Image.open(io.BytesIO(animation(made, scale=4))) as gif:
        assert gif.format == "GIF"
        assert getattr(gif, "n_frames", 1) == 3
        assert gif.info["loop"] == 0
        assert gif.size == (4 + 3 * (120 + 4), 4 + 80 + 16)
        shown = []
        for at in range(3):
            gif.seek(at)
            shown.append(gif.info["duration"])
        assert shown == [600, 600, 1800]
        last = np.asarray(gif.convert("RGB"))
    assert abs(int(last[4 + 13 * 4, 4 + 124 + 22 * 4, 0]) - 100) < 12, "the last canvas, in the middle"


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1), (6, 9, 3)])
def test_png_gives_back_the_same_pixels(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(png(image))) as read:
        assert read.format == "PNG"
        np.testing.assert_array_equal(np.asarray(read).reshape(shape), image)


def test_png_refuses_what_is_no_image() -> None:
    with pytest.raises(ValueError, match="float64"):
        png(np.zeros((4, 4)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(4, 4, 2\)"):
        png(np.zeros((4, 4, 2), np.uint8))


def test_contact_sheet_stacks_strips(made: Reconstruction) -> None:
    wide = filmstrip(made)
    narrow = filmstrip(replace(made, frames=made.frames[:2], error=made.error[:2], steps=made.steps[:1]))
    sheet = np.asarray(contact_sheet([narrow, wide]))
    assert sheet.shape == (narrow.height + wide.height, wide.width, 3)
    np.testing.assert_array_equal(sheet[narrow.height :], np.asarray(wide))
    np.testing.assert_array_equal(sheet[: narrow.height, : narrow.width], np.asarray(narrow))
    with pytest.raises(ValueError, match="no filmstrips"):
        contact_sheet([])


def test_frames_do_not_import_torch() -> None:
    code = "import sys, seqae.rendering.frames; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
