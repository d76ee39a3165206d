import gzip
import json
import logging
import multiprocessing
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from seqae.config import DataConfig, MnistScenesConfig, ModelConfig, SpritesConfig, TetrominoesConfig
from seqae.data import cache
from seqae.data.cache import Dataset, load_data
from seqae.data.digits import bundled_digits, mnist_digits
from seqae.data.mnist_scenes import make_scenes
from seqae.errors import DataError

CONFIG = MnistScenesConfig(train_scenes=30, val_scenes=20, test_scenes=10)
MODEL = ModelConfig()
_GIVEN = os.environ.get("SEQAE_DATA_DIR")
REAL = Path(_GIVEN) if _GIVEN else None

needs_mnist = pytest.mark.skipif(
    REAL is None or not (REAL / "MNIST" / "raw").is_dir(), reason="SEQAE_DATA_DIR names no folder with MNIST/raw"
)


def write_mnist(root: Path, train: int = 60, test: int = 20) -> Path:
    """A small data set in MNIST's own format, packed: noise digits."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = struct.pack(">4i", 2051, count, 28, 28)
        with gzip.open(raw / f"{name}-images-idx3-ubyte.gz", "wb") as file:
            file.write(header + images.tobytes())
        with gzip.open(raw / f"{name}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">2i", 2049, count) + labels.tobytes())
    return root


def only_folder(cache: Path) -> Path:
    (found,) = [path for path in cache.iterdir() if path.name.startswith("mnist_scenes-") and path.is_dir()]
    return found


def no_network(root: Path) -> None:
    raise OSError("no network")


def test_scenes_are_built_once_and_then_mapped(tmp_path: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    first = load_data(CONFIG, MODEL, tmp_path, progress=lambda *done: reported.append(done))
    assert first.train.images.shape == (30, 1, 64, 64)
    assert first.val.images.shape == (20, 1, 64, 64)
    assert first.test.images.shape == (10, 1, 64, 64)
    assert reported == [("train", 30, 30), ("val", 20, 20), ("test", 10, 10)]
    again = load_data(CONFIG, MODEL, tmp_path, progress=lambda *done: reported.append(done))
    assert len(reported) == 3
    assert again.checksum == first.checksum
    assert again.test_checksum == first.test_checksum
    assert isinstance(again.train.images, np.memmap)
    np.testing.assert_array_equal(again.train.images, first.train.images)
    assert "scikit-learn" in again.source


def test_processes_share_the_scenes_and_make_the_same(tmp_path: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    config = MnistScenesConfig(train_scenes=1100, val_scenes=20, test_scenes=10)
    made = load_data(config, MODEL, tmp_path, progress=lambda *done: reported.append(done))
    training = [("train", done, 1100) for done in (500, 1000, 1100)]
    assert reported == [*training, ("val", 20, 20), ("test", 10, 10)]
    digits = bundled_digits()
    train = make_scenes(config, 64, 64, 1, digits.train, "train")
    val = make_scenes(config, 64, 64, 1, digits.val, "val")
    test = make_scenes(config, 64, 64, 1, digits.test, "test")
    for split, alone in ((made.train, train), (made.val, val), (made.test, test)):
        for name, part in vars(alone).items():
            np.testing.assert_array_equal(getattr(split, name), part)


def test_equal_data_has_an_equal_checksum_in_another_cache(tmp_path: Path) -> None:
    one = load_data(CONFIG, MODEL, tmp_path / "one")
    two = load_data(CONFIG, MODEL, tmp_path / "two")
    other = load_data(CONFIG.model_copy(update={"seed": 5}), MODEL, tmp_path / "one")
    assert one.checksum == two.checksum != other.checksum
    assert one.test_checksum == two.test_checksum != other.test_checksum


@pytest.mark.parametrize("field", ["train_scenes", "val_scenes"])
def test_test_scenes_compare_whatever_was_trained_on(tmp_path: Path, field: str) -> None:
    """F1: with another number of training scenes the checksum of the whole differed, so no model ever compared."""
    one = load_data(CONFIG, MODEL, tmp_path)
    more = load_data(CONFIG.model_copy(update={field: 40}), MODEL, tmp_path)
    assert more.checksum != one.checksum
    assert more.test_checksum == one.test_checksum
    other = load_data(CONFIG.model_copy(update={"test_scenes": 11}), MODEL, tmp_path)
    assert other.test_checksum != one.test_checksum


def test_a_cache_of_the_format_before_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqae.data.cache.FORMAT_VERSION", 1)
    load_data(CONFIG, MODEL, tmp_path)
    before = only_folder(tmp_path)
    monkeypatch.undo()
    load_data(CONFIG, MODEL, tmp_path)
    assert before.is_dir()
    assert len(list(tmp_path.glob("mnist_scenes-*/manifest.json"))) == 2


def test_size_and_channels_come_from_the_model(tmp_path: Path) -> None:
    made = load_data(CONFIG, ModelConfig(height=40, width=72, channels=3), tmp_path)
    assert made.train.images.shape == (30, 3, 40, 72)
    assert load_data(CONFIG, MODEL, tmp_path).train.images.shape == (30, 1, 64, 64)


def test_torch_takes_the_mapped_arrays_and_cannot_change_the_file(tmp_path: Path) -> None:
    import torch  # here, so that the processes which another test starts from this file start fast

    made = load_data(CONFIG, MODEL, tmp_path)
    torch.from_numpy(made.train.images).fill_(7)  # warns, which is an error here, if the array is read-only
    assert load_data(CONFIG, MODEL, tmp_path).checksum == made.checksum


def cut(folder: Path) -> None:
    path = folder / "train-images.npy"
    path.write_bytes(path.read_bytes()[:-100])


def flip(folder: Path) -> None:
    path = folder / "test-masks.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def remove_array(folder: Path) -> None:
    (folder / "test-images.npy").unlink()


def break_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def forge_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["checksum"] = "0" * 64
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("damage", [cut, flip, remove_array, break_manifest, forge_manifest])
def test_a_damaged_cache_is_reported_and_built_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: "object"
) -> None:
    before = load_data(CONFIG, MODEL, tmp_path).checksum
    folder = only_folder(tmp_path)
    assert callable(damage)
    damage(folder)
    with caplog.at_level(logging.WARNING):
        assert load_data(CONFIG, MODEL, tmp_path).checksum == before
    assert f"{folder} is damaged" in caplog.text
    caplog.clear()
    load_data(CONFIG, MODEL, tmp_path)
    assert not caplog.records


def test_a_build_that_died_leaves_nothing_behind(tmp_path: Path) -> None:
    load_data(CONFIG, MODEL, tmp_path)
    folder = only_folder(tmp_path)
    shutil.rmtree(folder)
    dead = tmp_path / f"{folder.name}.building-dead"
    dead.mkdir()
    (dead / "train-images.npy").write_bytes(b"half")
    load_data(CONFIG, MODEL, tmp_path)
    assert not dead.exists()
    assert not list(tmp_path.glob("*.building-*"))


def test_a_failed_build_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not fit"):
        load_data(MnistScenesConfig(min_digits=16, max_digits=16), ModelConfig(height=32, width=32), tmp_path)
    assert not list(tmp_path.glob("mnist_scenes-*/"))


def test_a_cache_folder_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        load_data(CONFIG, MODEL, tmp_path / "file" / "cache")


def _load_and_put(cache: Path, results: "multiprocessing.Queue[tuple[str, int]]") -> None:
    built: list[tuple[str, int, int]] = []
    made = load_data(CONFIG, MODEL, cache, progress=lambda *reported: built.append(reported))
    results.put((made.checksum, len(built)))


def test_several_processes_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_load_and_put, args=(tmp_path, results)) for _ in range(3)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=240) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert len({checksum for checksum, _ in answers}) == 1
    assert sorted(built for _, built in answers) == [0, 0, 3]


def test_packed_mnist_is_unpacked_into_the_cache(tmp_path: Path) -> None:
    source = write_mnist(tmp_path / "data")
    before = sorted(path.name for path in (source / "MNIST" / "raw").iterdir())
    digits = mnist_digits(tmp_path / "cache", source, no_network)
    assert digits.train.images.shape == (54, 28, 28)
    assert digits.val.labels.tolist() == [4, 5, 6, 7, 8, 9], "the last of the training digits"
    assert digits.test.labels.tolist() == [*range(10)] * 2
    assert sorted(path.name for path in (source / "MNIST" / "raw").iterdir()) == before
    again = mnist_digits(tmp_path / "cache", None, no_network)
    np.testing.assert_array_equal(again.train.images, digits.train.images)


def test_unpacked_mnist_is_read_where_it_is(tmp_path: Path) -> None:
    source = write_mnist(tmp_path / "data")
    for packed in (source / "MNIST" / "raw").iterdir():
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    digits = mnist_digits(tmp_path / "cache", source, no_network)
    assert str(source) in digits.description
    assert not (tmp_path / "cache").exists()


def test_missing_mnist_is_an_error_that_names_the_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        mnist_digits(tmp_path / "cache", tmp_path / "data", no_network)
    for part in (str(tmp_path / "data" / "MNIST" / "raw"), str(tmp_path / "cache"), "no network"):
        assert part in str(caught.value)


def test_damaged_mnist_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    source = write_mnist(tmp_path / "data")
    packed = source / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:-2000])
    with pytest.raises(DataError, match=str(packed)):
        mnist_digits(tmp_path / "cache", source, no_network)
    content = gzip.compress(b"not an idx file")
    packed.write_bytes(content)
    with pytest.raises(DataError, match="MNIST in"):
        mnist_digits(tmp_path / "cache", source, no_network)


def test_a_job_that_asks_for_mnist_is_told_its_source(tmp_path: Path) -> None:
    source = write_mnist(tmp_path / "data")
    config = CONFIG.model_copy(update={"digits": "mnist"})
    made: Dataset = load_data(config, MODEL, tmp_path / "cache", source)
    assert made.source.startswith("MNIST (54 digits to learn from, 6 to choose by, 20 to test on)")


def test_a_handful_of_digits_can_not_be_split(tmp_path: Path) -> None:
    source = write_mnist(tmp_path / "data", train=9)
    with pytest.raises(DataError, match="has 9 training digits; ten or more are needed"):
        mnist_digits(tmp_path / "cache", source, no_network)


@needs_mnist
def test_real_mnist_gives_the_known_scenes(tmp_path: Path) -> None:
    config = MnistScenesConfig(digits="mnist", train_scenes=50, val_scenes=10, test_scenes=20)
    made = load_data(config, MODEL, tmp_path, REAL)
    assert made.source.startswith("MNIST (54,000 digits to learn from, 6,000 to choose by, 10,000 to test on)")
    (folder,) = tmp_path.glob("mnist_scenes-*/")
    arrays = json.loads((folder / "manifest.json").read_text())["arrays"]
    before = {file: entry for file, entry in arrays.items() if not file.endswith("-amodal.npy")}
    assert len(before) == len(arrays) - 3
    assert cache._checksum(before) == "a65ec5bece383ff20cf840292184e5c6c47e5aec7ea59bc42769934157d47537", (
        "the scenes are those of the releases before amodal masks"
    )
    assert made.checksum == "2f8289e282c895f8aa8f772510933af9ce182c7c771c015dc2fb2130e8fabebf"


@pytest.mark.parametrize(
    ("config", "source"),
    [
        (SpritesConfig(train_scenes=4, val_scenes=3, test_scenes=2), "generated sprites"),
        (TetrominoesConfig(train_scenes=4, val_scenes=3, test_scenes=2), "generated tetrominoes"),
    ],
)
def test_painted_scenes_are_cached_as_those_of_digits_are(config: DataConfig, source: str, tmp_path: Path) -> None:
    model = ModelConfig(height=35, width=40, channels=3)
    first = load_data(config, model, tmp_path)
    assert first.source == source
    assert [len(split.images) for split in (first.train, first.val, first.test)] == [4, 3, 2]
    assert first.train.images.shape == (4, 3, 35, 40)
    assert first.test.amodal is not None
    assert first.train.images[0].tobytes() != first.val.images[0].tobytes()
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert folder.name.startswith(f"{config.kind}-")
    assert load_data(config, model, tmp_path).checksum == first.checksum
