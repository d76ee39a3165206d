import hashlib
import json
import logging
import os
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seqae.config import ImagesConfig, ModelConfig
from seqae.data.cache import load_data
from seqae.data.coco import Annotations
from seqae.data.image_folder import find_images, fingerprint, locate, split_images
from seqae.data.splits import SPLITS, Split
from seqae.errors import DataError

MODEL = ModelConfig(height=32, width=32, channels=3, attention={"kernel_size": 16})
_GIVEN = os.environ.get("SEQAE_DATA_DIR")
REAL = Path(_GIVEN) if _GIVEN else None

needs_coco = pytest.mark.skipif(
    REAL is None or not (REAL / "coco128" / "train2017").is_dir(), reason="SEQAE_DATA_DIR names no folder with coco128"
)


def picture(seed: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A smooth random colour image."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 images of several formats in two folders."""
    folder = tmp_path / "data" / "photos"
    for at in range(24):
        path = folder / f"part{at % 2}" / f"{at:03}{('.jpg', '.png', '.JPEG')[at % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(at).save(path)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.jpg").write_text("not an image")
    return folder


def load(folder: Path, model: ModelConfig = MODEL, **settings: Any) -> Any:
    config = ImagesConfig(path=folder.name, **settings)
    return load_data(config, model, folder.parent.parent / "cache", folder.parent)


def manifest(folder: Path) -> dict[str, Any]:
    (path,) = (folder.parent.parent / "cache").glob("images-*/manifest.json")
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def test_any_folder_of_images_is_split_and_decoded(folder: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    config = ImagesConfig(path="photos")
    made = load_data(config, MODEL, folder.parent / "cache", folder.parent, lambda *done: reported.append(done))
    assert made.train.images.shape == (20, 3, 32, 32)
    assert made.val.images.shape == (2, 3, 32, 32)
    assert made.test.images.shape == (2, 3, 32, 32)
    assert made.train.masks is None
    assert made.source == f"20 + 2 + 2 images in {folder}"
    assert reported == [("train", 20, 20), ("val", 2, 2), ("test", 2, 2)]
    names = split_images(find_images(folder), config)["train"]
    for name, image in zip(names, made.train.images, strict=True):
        with Image.open(folder / name) as opened:
            square = opened.convert("RGB").crop((10, 0, 70, 60)).resize((32, 32), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(square).astype(int) - image.transpose(1, 2, 0)).mean() < 2, name


def test_grey_and_other_shapes(folder: Path) -> None:
    wide = load(folder, ModelConfig(height=16, width=48, attention={"kernel_size": 8}))
    assert wide.train.images.shape == (20, 1, 16, 48)


def test_large_jpegs_are_decoded_small_and_look_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "large"
    folder.mkdir(parents=True)
    for at in range(3):
        picture(at, (1600, 1200)).save(folder / f"{at}.jpg")
    made = load(folder)
    names = split_images(["0.jpg", "1.jpg", "2.jpg"], ImagesConfig(path="x"))
    with Image.open(folder / names["test"][0]) as opened:
        exact = opened.crop((200, 0, 1400, 1200)).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(exact).astype(int) - made.test.images[0].transpose(1, 2, 0)).max() <= 4


def sizes(split: dict[Split, list[str]]) -> tuple[int, ...]:
    return tuple(len(split[name]) for name in SPLITS)


def test_split_is_disjoint_and_keeps_its_members_when_files_are_added() -> None:
    names = [f"{at}.jpg" for at in range(1100)]
    config = ImagesConfig(path="x")
    split = split_images(names, config)
    assert sizes(split) == (900, 100, 100)
    assert len({name for part in split.values() for name in part}) == 1100
    assert split_images(names[::-1], config) == split
    more = split_images([*names, "new.jpg"], config)
    assert len(set(more["test"]) ^ set(split["test"])) <= 2
    assert len(set(more["val"]) ^ set(split["val"])) <= 2


def test_val_comes_after_the_test_images_of_the_releases_before() -> None:
    """F1: an image that was tested on is still tested on, and never chosen by; nothing else moves."""
    names = [f"{at}.jpg" for at in range(1100)]
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    split = split_images(names, ImagesConfig(path="x"))
    assert split == {"train": ordered[200:], "val": ordered[100:200], "test": ordered[:100]}
    exact = split_images(names, ImagesConfig(path="x", train_images=1000, test_images=100))
    assert exact == split, "there was just enough for two splits"


def test_split_takes_what_is_asked_for_where_there_is_enough() -> None:
    names = [f"{at}.jpg" for at in range(100)]
    split = split_images(names, ImagesConfig(path="x", train_images=50, val_images=30, test_images=20))
    assert sizes(split) == (50, 30, 20)
    few = split_images(names, ImagesConfig(path="x", train_images=90, val_images=30, test_images=20))
    assert sizes(few) == (82, 9, 9)
    without_val = split_images(names, ImagesConfig(path="x", train_images=50, val_images=31, test_images=20))
    assert sizes(without_val) == (50, 9, 20)


@pytest.mark.parametrize("count", range(3, 40))
@pytest.mark.parametrize("asked", [1, 2, 5, 100])
def test_no_split_is_empty(count: int, asked: int) -> None:
    names = [f"{at}.jpg" for at in range(count)]
    for train, val, test in product((1, asked), repeat=3):
        config = ImagesConfig(path="x", train_images=train, val_images=val, test_images=test)
        split = split_images(names, config)
        assert min(sizes(split)) >= 1
        assert all(size <= most for size, most in zip(sizes(split), (train, val, test), strict=True))
        assert len({name for part in split.values() for name in part}) == sum(sizes(split))


def test_damaged_files_are_reported_skipped_and_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = split_images(find_images(folder), ImagesConfig(path="x"))["train"]
    half, empty, text, gone = (folder / name for name in train[:4])
    whole = half.read_bytes()
    half.write_bytes(whole[: len(whole) // 2])
    empty.write_bytes(b"")
    text.write_text("hello")
    gone.unlink()
    gone.symlink_to("nowhere")
    with caplog.at_level(logging.WARNING):
        made = load(folder)
    assert len(made.train.images) == 16
    assert "4 damaged ones skipped" in made.source
    assert set(manifest(folder)["skipped"]) == set(train[:4])
    for path in (half, empty, text, gone):
        assert f"{path} is skipped" in caplog.text
    good = np.asarray(made.train.images[0]).transpose(1, 2, 0)
    with Image.open(folder / train[4]) as opened:
        square = opened.convert("RGB").crop((10, 0, 70, 60)).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(square).astype(int) - good).mean() < 2, "the images after the damaged ones moved up"


def test_an_image_with_too_many_pixels_is_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    picture(0, (200, 90)).save(folder / "bomb.png")
    picture(0, (400, 200)).save(folder / "larger.png")
    load(folder)
    assert set(manifest(folder)["skipped"]) == {"bomb.png", "larger.png"}


def test_a_changed_folder_is_decoded_again(folder: Path) -> None:
    before = load(folder)
    assert load(folder).checksum == before.checksum
    picture(99).save(folder / "new.png")
    assert load(folder).checksum != before.checksum


def test_a_fingerprint_changes_with_every_file_that_is_written_again(tmp_path: Path) -> None:
    names = ["a.png", "b.png"]
    annotations = tmp_path / "instances.json"
    for path in (*(tmp_path / name for name in names), annotations):
        path.write_bytes(b"1234")
        os.utime(path, ns=(10**18, 10**18))
    seen = [fingerprint(tmp_path, names, annotations)]
    assert fingerprint(tmp_path, names, annotations) == seen[0]
    for path in (tmp_path / "b.png", annotations):
        os.utime(path, ns=(10**18, 10**18 + 1))  # of the same size
        seen.append(fingerprint(tmp_path, names, annotations))
    (tmp_path / "a.png").write_bytes(b"12345")
    os.utime(tmp_path / "a.png", ns=(10**18, 10**18))
    seen.append(fingerprint(tmp_path, names, annotations))
    seen += [fingerprint(tmp_path, names[:1], annotations), fingerprint(tmp_path, names, None)]
    assert len(set(seen)) == len(seen)


def test_a_folder_that_is_missing_or_empty_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        load(folder.with_name("nowhere"))
    (folder.parent / "bare").mkdir()
    with pytest.raises(DataError, match="bare has 0 images"):
        load(folder.parent / "bare")
    with pytest.raises(DataError, match="SEQAE_DATA_DIR"):
        locate("photos", None)


def test_only_damaged_files_are_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "broken"
    folder.mkdir(parents=True)
    for at in range(3):
        (folder / f"{at}.jpg").write_text("x")
    with pytest.raises(DataError, match="can be decoded"):
        load(folder)


def instances(path: Path, annotations: list[dict[str, Any]]) -> Path:
    """A COCO JSON about one image, `a.png` of 80 x 60."""
    images = [{"id": 7, "file_name": "a.png", "width": 80, "height": 60}]
    full = [{"id": at, "image_id": 7, "iscrowd": 0, **entry} for at, entry in enumerate(annotations)]
    path.write_text(json.dumps({"images": images, "annotations": full}))
    return path


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def test_polygons_become_masks_of_the_cropped_image(tmp_path: Path) -> None:
    # The crop is 10..70 across; scaled from 60 to 30 pixels.
    path = instances(
        tmp_path / "i.json",
        [
            {"category_id": 5, "segmentation": box(20, 10, 30, 20)},
            {"category_id": 9, "segmentation": [*box(40, 10, 60, 30), *box(40, 40, 60, 50)]},
            {"category_id": 3, "segmentation": box(0, 0, 9, 60)},  # outside of the crop
        ],
    )
    made = Annotations.read(path, ["part/a.png"]).scenes(["a.png"], [(80, 60)], 30, 30)
    expected = np.zeros((30, 30), np.uint8)
    expected[5:15, 15:25] = expected[20:25, 15:25] = 1
    expected[5:10, 5:10] = 2
    # A drawn polygon includes its outline: a quarter of a pixel, which rounds away.
    np.testing.assert_array_equal(made["masks"][0], expected)
    assert made["counts"].tolist() == [2]
    assert made["labels"].tolist() == [[9, 5]]
    assert made["boxes"][0].tolist() == [[15, 5, 25, 25], [5, 5, 10, 10]]
    assert not made["overlap"].any()


def test_overlaps_and_crowds_are_left_out(tmp_path: Path) -> None:
    # Run lengths go down the columns: all of the columns 50..59 of an image of 80 x 60.
    crowd = {"size": [60, 80], "counts": [50 * 60, 10 * 60, 20 * 60]}
    path = instances(
        tmp_path / "i.json",
        [
            {"category_id": 1, "segmentation": box(20, 20, 40, 40)},
            {"category_id": 2, "segmentation": box(30, 30, 60, 60)},
            {"category_id": 1, "segmentation": crowd, "iscrowd": 1},
        ],
    )
    made = Annotations.read(path, ["part/a.png"]).scenes(["part/a.png"], [(80, 60)], 30, 30)
    assert made["counts"].tolist() == [2]
    expected = np.zeros((30, 30), np.bool_)
    expected[15:20, 10:15] = True  # of both objects
    expected[:, 20:25] = True  # of the crowd
    np.testing.assert_array_equal(made["overlap"][0], expected)
    assert made["masks"][0, 17, 12] == 2, "the smaller object is on top"


def test_images_without_objects_count_none(tmp_path: Path) -> None:
    made = Annotations.read(instances(tmp_path / "i.json", []), ["a.png"]).scenes(
        ["a.png", "b.png"], [(80, 60)] * 2, 30, 30
    )
    assert made["counts"].tolist() == [0, 0]
    assert not made["masks"].any()


def test_annotations_that_can_not_be_used_are_errors(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(DataError, match=r"broken\.json"):
        Annotations.read(broken, ["a.png"])
    broken.write_text('{"images": []}')
    with pytest.raises(DataError, match="annotations"):
        Annotations.read(broken, ["a.png"])
    with pytest.raises(DataError, match="names none of the 1 images"):
        Annotations.read(instances(tmp_path / "i.json", []), ["other.png"])
    odd = instances(tmp_path / "odd.json", [{"category_id": 1, "segmentation": {"size": [60, 80], "counts": "abc"}}])
    with pytest.raises(DataError, match=r"a\.png"):
        Annotations.read(odd, ["a.png"]).scenes(["a.png"], [(80, 60)], 30, 30)


def test_annotations_of_rotated_files_fit_the_stored_pixels(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "rotated"
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (80, 60))
    image.paste((255, 255, 255), (20, 0, 30, 60))
    for name in ("a.png", "b.png", "c.png"):
        image.save(folder / name, exif=exif)
    instances(folder.parent / "i.json", [{"category_id": 1, "segmentation": box(20, 0, 30, 60)}])
    upright = load(folder, annotations="i.json")
    turned = load(folder)
    for made, column in ((upright, True), (turned, False)):
        bright = made.train.images[0, 0] > 200
        assert (bright[:, 7].all(), bright[7].all() or bright[24].all()) == (column, not column)


@needs_coco
def test_real_coco_images_and_masks(tmp_path: Path) -> None:
    assert REAL is not None
    config = ImagesConfig(path="coco128", annotations="coco128/annotations/instances_train2017.json")
    made = load_data(config, ModelConfig(channels=3), tmp_path, REAL)
    assert made.source.startswith("106 + 11 + 11 images")
    assert made.train.images.shape == (106, 3, 64, 64)
    assert 60 < made.train.images.mean() < 180
    assert made.train.counts is not None
    assert made.train.masks is not None
    assert 4 < made.train.counts.mean() < 12
    assert 0.2 < (made.train.masks > 0).mean() < 0.7
    assert (made.train.masks.max(axis=(1, 2)) <= made.train.counts).all()


@needs_coco
def test_a_damaged_real_image_is_skipped(tmp_path: Path) -> None:
    assert REAL is not None
    folder = tmp_path / "data" / "some"
    folder.mkdir(parents=True)
    for name in sorted(path.name for path in (REAL / "coco128" / "train2017").iterdir())[:6]:
        shutil.copyfile(REAL / "coco128" / "train2017" / name, folder / name)
    victim = folder / split_images(find_images(folder), ImagesConfig(path="x"))["train"][0]
    victim.write_bytes(victim.read_bytes()[:3000])
    made = load(folder)
    assert len(made.train.images) == 3
    assert list(manifest(folder)["skipped"]) == [victim.name]
