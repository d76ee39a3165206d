import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from seqae.config import TrainConfig
from seqae.data.preprocess import fit
from seqae.errors import CheckpointError
from seqae.model import Output, SequentialAutoEncoder
from seqae.reconstruction import Reconstruction
from seqae.reconstructor import Reconstructor
from seqae.segmentation.looks import look_again
from seqae.segmentation.ownership import own_pixels
from seqae.training import Trainer
from tests.untrained import with_random_writes

Make = Callable[..., TrainConfig]


def make(config: TrainConfig) -> tuple[Reconstructor, SequentialAutoEncoder]:
    """Untrained, but with windows and writes that differ from image to image."""
    torch.manual_seed(0)
    model = with_random_writes(SequentialAutoEncoder(config.model))
    with torch.no_grad():
        for parameter in model.localizer.head.parameters():  # type: ignore[union-attr]
            parameter.normal_(std=0.3)
        nn.init.constant_(model.coder.decoder[-1].bias, 0.2)  # type: ignore[arg-type]
    return Reconstructor(model, config), model


@pytest.fixture(scope="module")
def grey(small_config: Make) -> tuple[Reconstructor, SequentialAutoEncoder]:
    """Images of 24 x 28."""
    return make(small_config(model={"attention": {"log_gamma_max": 1.0}}))


@pytest.fixture(scope="module")
def colour(small_config: Make) -> tuple[Reconstructor, SequentialAutoEncoder]:
    return make(small_config(model={"channels": 3, "background": {"bottleneck": 4}}))


def inputs(count: int, channels: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, 24, 28, channels), np.uint8)


def as_bytes(values: torch.Tensor) -> NDArray[np.uint8]:
    """[..., C, H, W] in 0..1 -> [..., H, W, C]."""
    array: NDArray[np.float32] = values.movedim(-3, -1).numpy()
    return np.rint(array * 255).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_is_what_the_model_did(
    channels: int,
    grey: tuple[Reconstructor, SequentialAutoEncoder],
    colour: tuple[Reconstructor, SequentialAutoEncoder],
) -> None:
    reconstructor, model = grey if channels == 1 else colour
    given = inputs(3, channels)
    image = torch.from_numpy(given).movedim(-1, 1).float() / 255
    with torch.no_grad():
        output: Output = model(image)
        written = own_pixels(image, output, has_background=model.background is not None)
        owners = look_again(model, image, output, written).owners.numpy()
    assert not np.array_equal(owners, written.owners), "a case that can tell"
    found = reconstructor.reconstruct_arrays(given)
    assert len(found) == 3
    for at, made in enumerate(found):
        np.testing.assert_array_equal(made.input, given[at])
        assert made.frames.shape == (4, 24, 28, channels)
        np.testing.assert_array_equal(made.frames, as_bytes(output.canvases[:, at]))
        errors = (image[at] - output.canvases[:, at]).square().mean(dim=(1, 2, 3))
        assert made.error == pytest.approx(errors.tolist(), rel=1e-5)
        assert len(made.steps) == 3
        np.testing.assert_array_equal(made.owners, owners[at])
        assert [step.active for step in made.steps] == written.active[:, at].tolist()
        for t, (step, record) in enumerate(zip(made.steps, output.steps, strict=True), start=1):
            window = [float(value[at]) for value in record.window]
            assert [step.x, step.y, step.stride, step.sigma, step.gamma] == pytest.approx(window)
            assert step.error == made.error[t]
            np.testing.assert_array_equal(step.patch_read, as_bytes(record.patch_read[at]))
            np.testing.assert_array_equal(step.patch_written, as_bytes(record.patch_written[at]))
            half = 10 / 2 * step.stride  # N = 10 kernels
            # The centre of pixel 0 is half a pixel from the image's edge.
            expected = (step.x + 0.5 - half, step.y + 0.5 - half, step.x + 0.5 + half, step.y + 0.5 + half)
            assert step.window == step.source_window == pytest.approx(expected, abs=1e-5)


def test_a_batch_gives_what_each_picture_gives_alone(grey: tuple[Reconstructor, SequentialAutoEncoder]) -> None:
    given = inputs(3)
    together = grey[0].reconstruct_arrays(given)
    for at in range(3):
        (alone,) = grey[0].reconstruct_arrays(given[at : at + 1])
        np.testing.assert_allclose(together[at].frames.astype(int), alone.frames, atol=1)
        assert together[at].error == pytest.approx(alone.error, rel=1e-4)


def test_pictures_and_arrays_give_the_same(grey: tuple[Reconstructor, SequentialAutoEncoder]) -> None:
    given = inputs(2)
    from_arrays = grey[0].reconstruct_arrays(given)
    from_pictures = grey[0].reconstruct([Image.fromarray(array[..., 0]) for array in given])
    for left, right in zip(from_arrays, from_pictures, strict=True):
        np.testing.assert_array_equal(left.frames, right.frames)
        np.testing.assert_array_equal(left.input, right.input)
        assert left.error == right.error
        assert [step.source_window for step in left.steps] == [step.source_window for step in right.steps]


def test_no_pictures_give_nothing(grey: tuple[Reconstructor, SequentialAutoEncoder]) -> None:
    assert grey[0].reconstruct([]) == []


def test_pictures_of_different_sizes_and_modes_in_one_batch(
    colour: tuple[Reconstructor, SequentialAutoEncoder],
) -> None:
    sizes = {"RGBA": (31, 17), "P": (200, 90), "LA": (5, 5), "I;16": (64, 64), "CMYK": (1, 1000), "1": (900, 2)}
    pictures = [Image.new(mode, size) for mode, size in sizes.items()]
    found = colour[0].reconstruct(pictures)
    assert [made.input.shape for made in found] == [(24, 28, 3)] * len(sizes)
    for picture, made in zip(pictures, found, strict=True):
        np.testing.assert_array_equal(made.input, fit(picture, 24, 28, 3))


def check_source_windows(made: Reconstruction, left: float, top: float, scale: float) -> None:
    for step in made.steps:
        expected = [corner + edge * scale for corner, edge in zip((left, top) * 2, step.window, strict=True)]
        assert step.source_window == pytest.approx(expected)


def test_windows_are_mapped_back_to_the_picture(grey: tuple[Reconstructor, SequentialAutoEncoder]) -> None:
    """By hand: 24 x 28 pixels of the model are 120 x 140 in the middle of a picture of 120 high and 200 wide."""
    (wide,) = grey[0].reconstruct([Image.new("L", (200, 120), 50)])
    check_source_windows(wide, left=30, top=0, scale=5)
    (tall,) = grey[0].reconstruct([Image.new("L", (14, 52), 50)])
    check_source_windows(tall, left=0, top=20, scale=0.5)


def test_a_window_lies_on_the_object_in_the_picture() -> None:
    """The seeker looks at the only bright thing; in the picture's own pixels that is where it was put."""
    config = TrainConfig.model_validate({"model": {"steps": 1}})
    picture = np.zeros((320, 500), np.uint8)
    picture[180:270, 300:390] = 255
    (made,) = Reconstructor(with_random_writes(SequentialAutoEncoder(config.model)), config).reconstruct(
        [Image.fromarray(picture)]
    )
    left, top, right, bottom = made.steps[0].source_window
    assert (left + right) / 2 == pytest.approx(345, abs=12)
    assert (top + bottom) / 2 == pytest.approx(225, abs=12)


def turned(exif: bytes | Image.Exif) -> Image.Image:
    stream = io.BytesIO()
    Image.fromarray(np.arange(200 * 120, dtype=np.uint8).reshape(200, 120)).save(stream, "PNG", exif=exif)
    return Image.open(stream)


@pytest.mark.parametrize(
    ("orientation", "is_turned"), [(1, False), (3, False), (5, True), (6, True), (8, True), (9, False)]
)
def test_windows_of_a_turned_picture_are_in_the_pixels_that_people_see(
    grey: tuple[Reconstructor, SequentialAutoEncoder], orientation: int, is_turned: bool
) -> None:
    """Stored 120 wide and 200 high, shown 200 wide and 120 high. There is no orientation 9."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = turned(exif)
    (made,) = grey[0].reconstruct([picture])
    np.testing.assert_array_equal(made.input, fit(picture, 24, 28, 1))
    if is_turned:
        check_source_windows(made, left=30, top=0, scale=5)
    else:
        check_source_windows(made, left=0, top=(200 - 120 / 28 * 24) / 2, scale=120 / 28)


def test_a_nonsensical_orientation_is_ignored(grey: tuple[Reconstructor, SequentialAutoEncoder]) -> None:
    """A text where a number should be."""
    entry = struct.pack("<HHI4s", 0x0112, 2, 2, b"6\0\0\0")
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + bytes(4)
    (made,) = grey[0].reconstruct([turned(exif)])
    check_source_windows(made, left=0, top=(200 - 120 / 28 * 24) / 2, scale=120 / 28)


def test_a_truncated_picture_is_an_os_error(grey: tuple[Reconstructor, SequentialAutoEncoder]) -> None:
    stream = io.BytesIO()
    Image.fromarray(inputs(1)[0, ..., 0]).save(stream, "PNG")
    with pytest.raises(OSError, match="truncated"):
        grey[0].reconstruct([Image.open(io.BytesIO(stream.getvalue()[:-200]))])


def test_a_checkpoint_gives_the_model_that_was_trained(
    small_config: Make, small_data: Callable[[TrainConfig], object], tmp_path: Path
) -> None:
    config = small_config(model={"coder": {"kind": "variational"}, "localizer": {"kind": "improved"}})
    trainer = Trainer(config, small_data(config))  # type: ignore[arg-type]
    for _ in trainer.run():
        pass
    trainer.save(tmp_path / "6")
    reconstructor = Reconstructor.from_checkpoint(tmp_path / "6")
    assert Reconstructor.from_checkpoint(str(tmp_path / "6")).config == reconstructor.config
    assert reconstructor.config == config
    given = inputs(2)
    first, again = reconstructor.reconstruct_arrays(given), reconstructor.reconstruct_arrays(given)
    with torch.no_grad():
        output: Output = trainer.model.eval()(torch.from_numpy(given).movedim(-1, 1).float() / 255)
    for at in range(2):
        np.testing.assert_array_equal(first[at].frames, again[at].frames)
        np.testing.assert_allclose(first[at].frames.astype(int), as_bytes(output.canvases[:, at]), atol=1)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Reconstructor.from_checkpoint(tmp_path)
