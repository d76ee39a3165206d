import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from seqae.config import ImagesConfig, ModelConfig
from seqae.data.cache import load_data
from seqae.data.image_folder import find_images, fingerprint, split_images
from seqae.data.paths import AllowedRoots
from seqae.data.splits import SPLITS, Split
from seqae.errors import DataError
from tests.unit.seqae.data.coco_files import box, instances
from tests.unit.seqae.data.jpegs import with_scans

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
    names = split_images(find_images(folder).names, config)["train"]
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
    train = split_images(find_images(folder).names, ImagesConfig(path="x"))["train"]
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


def test_how_training_varies_images_makes_no_other_cache(folder: Path) -> None:
    whole = load(folder)
    written = manifest(folder)
    assert load(folder, crop=0.5, flip=True).checksum == whole.checksum
    assert manifest(folder) == written
    assert not {"crop", "flip"} & written["settings"]["data"].keys(), "caches of the release before are found again"


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
        AllowedRoots().locate("photos", "data.path")


def test_only_damaged_files_are_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "broken"
    folder.mkdir(parents=True)
    for at in range(3):
        (folder / f"{at}.jpg").write_text("x")
    with pytest.raises(DataError, match="can be decoded"):
        load(folder)


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
    victim = folder / split_images(find_images(folder).names, ImagesConfig(path="x"))["train"][0]
    victim.write_bytes(victim.read_bytes()[:3000])
    made = load(folder)
    assert len(made.train.images) == 3
    assert list(manifest(folder)["skipped"]) == [victim.name]


# --- files that are not what they seem


def test_a_pipe_a_folder_and_a_socket_named_like_images_are_skipped(folder: Path) -> None:
    """D4: a FIFO named .png made the job hang."""
    os.mkfifo(folder / "pipe.png")
    (folder / "empty.png").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket.png"))
        (folder / "device.png").symlink_to("/dev/zero")
        made = load(folder)
    assert sum(len(each.images) for each in (made.train, made.val, made.test)) == 24
    skipped = manifest(folder)["skipped"]
    assert set(skipped) == {"pipe.png", "socket.png", "device.png"}
    assert skipped["pipe.png"] == "not a regular file"


def test_a_format_that_starts_a_program_is_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D4: an EPS named .png started Ghostscript."""

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    picture(0).save(folder / "program.png", "EPS")
    load(folder)
    assert "known format" in manifest(folder)["skipped"]["program.png"]


def test_any_error_of_a_decoder_is_that_files_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D4: an exception of a kind that was not foreseen ended the job."""

    class OddError(Exception):
        """Of no known kind."""

    real = PngImagePlugin.PngImageFile.load_prepare

    def broken(image: PngImagePlugin.PngImageFile) -> None:
        if image.size == (33, 44):
            raise OddError("secret")
        real(image)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", broken)
    picture(0, (33, 44)).save(folder / "odd.png")
    load(folder)
    assert manifest(folder)["skipped"] == {"odd.png": "damaged or truncated"}


def test_a_jpeg_of_too_many_scans_is_skipped(folder: Path) -> None:
    """D3: each scan is a pass over all pixels."""
    (folder / "scans.jpg").write_bytes(with_scans(150))
    load(folder)
    assert "more than 100 progressive scans" in manifest(folder)["skipped"]["scans.jpg"]


def test_names_that_are_not_utf8_are_read_or_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """D5: one such name made the job fail as "internal"."""
    good, bad = (os.fsdecode(os.fsencode(folder) + name) for name in (b"/gr\xfcn.png", b"/br\xfcchig\n.png"))
    picture(0).save(folder / "x.png")
    (folder / "x.png").rename(good)
    Path(bad).write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING):
        made = load(folder)
    assert sum(len(each.images) for each in (made.train, made.val, made.test)) == 25
    assert list(manifest(folder)["skipped"]) == ["br\\xfcchig\\n.png"]
    caplog.text.encode()


def test_links_to_folders_are_followed_once_and_without_loops(tmp_path: Path) -> None:
    """D5: a folder of links to folders had "0 images"."""
    real = tmp_path / "data" / "real"
    for part in "ab":
        (real / part).mkdir(parents=True)
        for at in range(3):
            picture(at).save(real / part / f"{at}.png")
    (real / "b" / "back").symlink_to("..")
    (real / "b" / "itself.png").symlink_to("itself.png")
    links = tmp_path / "data" / "links"
    links.mkdir()
    for name in ("a", "b", "again"):
        (links / name).symlink_to(real / name[:1])
    expected = [*(f"a/{at}.png" for at in range(3)), *(f"b/{at}.png" for at in range(3)), "b/itself.png"]
    assert find_images(links).names == expected
    assert len(find_images(real).names) == 7


def test_links_out_of_the_roots_are_named_and_not_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1: a link in the data folder does not open the rest of the machine."""
    outside = tmp_path / "outside"
    outside.mkdir()
    picture(0).save(outside / "one.png")
    (folder / "folder").symlink_to(outside)
    (folder / "one.png").symlink_to(outside / "one.png")
    assert len(load(folder).train.images) == 20
    skipped = manifest(folder)["skipped"]
    assert set(skipped) == {"folder", "one.png"}
    assert all("SEQAE_DATA_ROOTS" in reason for reason in skipped.values())
    monkeypatch.setenv("SEQAE_DATA_ROOTS", json.dumps([str(outside)]))
    assert len(find_images(folder, AllowedRoots.configured(folder.parent)).names) == 26


def test_images_are_found_by_content_too(tmp_path: Path) -> None:
    """D5: .jfif and files without a suffix were not found."""
    kinds = {"a.jfif": "JPEG", "b": "PNG", "c": "JPEG", "d.data": "WEBP", "e": "GIF", "f.bin": "TIFF"}
    for name, kind in kinds.items():
        picture(0).save(tmp_path / name, kind)
    (tmp_path / "text").write_text("hello")
    (tmp_path / "readme.md").write_text("# hello")
    os.mkfifo(tmp_path / "pipe")
    assert find_images(tmp_path).names == list(kinds)


def test_damaged_exif_is_no_reason_to_skip(folder: Path) -> None:
    """D6: such files were skipped."""
    for at, damage in enumerate((b"II*\x00\xff\xff\xff\x7f", b"\xff" * 50)):
        picture(0).save(folder / f"damaged{at}.jpg", exif=b"Exif\x00\x00" + damage)
    load(folder)
    assert manifest(folder)["skipped"] == {}


def test_annotations_that_are_skipped_are_counted_and_named(folder: Path) -> None:
    """D8: one odd annotation does not end the job."""
    name = split_images(find_images(folder).names, ImagesConfig(path="x"))["train"][0]
    whole = {"category_id": 1, "segmentation": box(20, 0, 60, 60)}
    path = instances(folder.parent / "i.json", [whole, whole | {"segmentation": None}])
    path.write_text(path.read_text().replace("a.png", name))
    made = load(folder, annotations="i.json")
    assert made.source.endswith("1 entries of the annotations skipped")
    assert manifest(folder)["skipped"] == {"#/annotations/1": "has no segmentation"}
    assert made.train.counts.tolist()[:2] == [1, 0]
