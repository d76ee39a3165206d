"""Benchmark of the data: scenes made, and an image folder cached against plain PIL in one process."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from seqae.config import ImagesConfig, MnistScenesConfig, ModelConfig
from seqae.data.cache import load_data
from seqae.data.image_folder import find_images
from tests.benchmarks.figures import Figure


def scenes(count: int) -> Iterator[Figure]:
    """Scenes/s, made into a new cache and opened from it again."""
    config = MnistScenesConfig(
        train_scenes=count - count // 6 - count // 12, val_scenes=count // 12, test_scenes=count // 6
    )
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            load_data(config, ModelConfig(), Path(folder))
            seconds.append(time.perf_counter() - started)
    made, opened = seconds
    yield Figure("data", f"{count:,} scenes made, checked and stored", count / made, "scene/s")
    yield Figure("data", f"{count:,} scenes opened from the cache", count / opened, "scene/s", made / opened, "made")


def _plain(folder: Path, names: list[str], side: int = 64) -> np.ndarray:
    """What one would write without this library: open, largest centred square, resize."""
    out = np.empty((len(names), 3, side, side), np.uint8)
    for row, name in enumerate(names):
        with Image.open(folder / name) as file:
            image = file.convert("RGB")
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        square = image.crop((left, top, left + short, top + short))
        out[row] = np.moveaxis(np.asarray(square.resize((side, side), Image.Resampling.BICUBIC)), -1, 0)
    return out


def _make_jpegs(folder: Path, count: int) -> None:
    """JPEGs of 640 x 480 with detail at every scale, which is what decoding time depends on."""
    rng = np.random.default_rng(0)
    for number in range(count):
        image = np.zeros((480, 640, 3), np.float32)
        for scale in (4, 16, 64):
            grid = rng.random((480 // scale + 1, 640 // scale + 1, 3), np.float32)
            layer = Image.fromarray((grid * 255).astype(np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
            image += np.asarray(layer, np.float32) / 3
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{number:04}.jpg", quality=90)


def caching(data_dir: Path | None, rounds: int, generated: int = 128) -> Iterator[Figure]:
    """Images/s into the cache, and of plain PIL; they take turns, the best of each counts."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = data_dir / "coco128" if data_dir else Path(temporary) / "jpegs"
        source = "coco128"
        if not folder.is_dir():
            folder, source = Path(temporary) / "jpegs", "generated JPEGs"
            folder.mkdir()
            _make_jpegs(folder, generated)
        names = find_images(folder).names
        config = ImagesConfig(path=str(folder.resolve()))
        ours, plain = [], []
        for turn in range(rounds):
            started = time.perf_counter()
            load_data(config, ModelConfig(channels=3), Path(temporary) / f"cache-{turn}", folder)
            ours.append(time.perf_counter() - started)
            started = time.perf_counter()
            _plain(folder, names)
            plain.append(time.perf_counter() - started)
    count = len(names)
    yield Figure("data", f"{source}: plain PIL, one process", count / min(plain), "image/s")
    ratio = min(plain) / min(ours)
    yield Figure("data", f"{source}: cached and checked", count / min(ours), "image/s", ratio, "plain PIL")
