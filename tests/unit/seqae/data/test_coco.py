"""Reading COCO's instances: masks at the model's size, and entries that can't be used."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqae.data.coco import Annotations
from seqae.errors import DataError
from tests.unit.seqae.data.coco_files import box, instances


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
    made = Annotations.read(path, ["part/a.png"]).scenes(["part/a.png"], [(80, 60)], 30, 30)
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


SQUARE = box(20, 10, 60, 50)
COMPRESSED = {"size": [60, 80], "counts": "Rc0d0X10000000000000000000000000000000000000^m2"}
"""What pycocotools makes of the box (10, 10) to (30, 30)."""

UNUSABLE: dict[str, dict[str, Any]] = {
    "no segmentation": {"segmentation": None},
    "an odd polygon": {"segmentation": [[5, 5, 9, 9, 3]]},
    "two corners": {"segmentation": [[5, 5, 9, 9]]},
    "no polygons": {"segmentation": []},
    "a flat polygon": {"segmentation": [5, 5, 9, 9, 20, 3]},
    "corners in words": {"segmentation": [["a", 5, 9, 9, 20, 3]]},
    "a deep polygon": {"segmentation": [[[5, 5], [9, 9], [20, 3]]]},
    "infinite corners": {"segmentation": [[5, 5, float("inf"), 9, 20, 3]]},
    "no number": {"segmentation": [[5, 5, float("nan"), 9, 20, 3]]},
    "far corners": {"segmentation": [[5, 5, 1e300, 9, 20, 3]]},
    "text": {"segmentation": "secret"},
    "run lengths that are too short": {"segmentation": {"size": [60, 80], "counts": [10, 10]}},
    "negative run lengths": {"segmentation": {"size": [60, 80], "counts": [-10, 10 + 4800]}},
    "run lengths of no size": {"segmentation": {"counts": [10, 10]}},
    "run lengths of no pixels": {"segmentation": {"size": [0, 80], "counts": []}},
    "run lengths of a huge size": {"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}},
    "run lengths in fractions": {"segmentation": {"size": [60, 80], "counts": [4800.0]}},
    "compressed run lengths of another size": {"segmentation": {"size": [61, 80], "counts": COMPRESSED["counts"]}},
    "compressed run lengths that are cut off": {"segmentation": {"size": [60, 80], "counts": "Rc0d0X1P"}},
    "compressed run lengths in another code": {"segmentation": {"size": [60, 80], "counts": "\x00\uffff"}},
    "an endless compressed run": {"segmentation": {"size": [60, 80], "counts": "o" * 10_000}},
    "an unknown image": {"image_id": 99},
    "no image": {"image_id": None},
    "an image that is a list": {"image_id": [7]},
    "a huge category": {"category_id": 2**70},
    "no category": {"category_id": None},
    "a category in words": {"category_id": "cat"},
    "a fraction of a category": {"category_id": 1.5},
    "an odd crowd": {"iscrowd": "perhaps"},
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_entry_that_can_not_be_used_is_skipped_counted_and_named(name: str, tmp_path: Path) -> None:
    """D8: one such entry made the whole job fail."""
    good = {"category_id": 5, "segmentation": SQUARE}
    path = instances(tmp_path / "i.json", [good, good | UNUSABLE[name], good])
    read = Annotations.read(path, ["a.png"])
    made = read.scenes(["a.png"], [(80, 60)], 30, 30)
    assert made["labels"].tolist() == [[5, 5]]
    assert read.skipped.count == 1
    assert list(read.skipped.reasons) == ["#/annotations/1"]
    assert "secret" not in read.skipped.reasons["#/annotations/1"]


@pytest.mark.parametrize("entry", [5, None, "text", [], {}])
def test_an_entry_that_is_none_is_skipped(entry: object, tmp_path: Path) -> None:
    """D8: of images and of annotations."""
    path = instances(tmp_path / "i.json", [{"category_id": 5, "segmentation": SQUARE}])
    content = json.loads(path.read_text())
    content["images"].append(entry)
    content["annotations"].insert(0, entry)
    path.write_text(json.dumps(content))
    read = Annotations.read(path, ["a.png"])
    assert read.scenes(["a.png"], [(80, 60)], 30, 30)["counts"].tolist() == [1]
    assert set(read.skipped.reasons) == {"#/images/1", "#/annotations/0"}


def test_compressed_run_lengths_are_read(tmp_path: Path) -> None:
    """D8: the form that pycocotools writes."""
    plain = {"size": [60, 80], "counts": [610, *[20, 40] * 19, 20, 4800 - 610 - 20 * 20 - 40 * 19]}
    masks = []
    for segmentation in (COMPRESSED, plain, box(10, 10, 30, 30)):
        path = instances(tmp_path / "i.json", [{"category_id": 5, "segmentation": segmentation}])
        masks.append(Annotations.read(path, ["a.png"]).scenes(["a.png"], [(80, 60)], 30, 30)["masks"])
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], masks[2])
    assert masks[0].sum() == 100


def write(path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def entry(image_id: object, **changes: object) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 1, "segmentation": SQUARE} | changes


@pytest.mark.parametrize(("id_of_image", "id_in_entry"), [("7", 7), (7, "7"), ("x", "x"), (7.0, 7), (0, 0)])
def test_ids_may_be_text(id_of_image: object, id_in_entry: object, tmp_path: Path) -> None:
    """D8: text ids, and no `iscrowd`."""
    images = [{"id": id_of_image, "file_name": "a.png"}]
    path = write(tmp_path / "i.json", images, [entry(id_in_entry, category_id="12")])
    made = Annotations.read(path, ["a.png"]).scenes(["a.png"], [(80, 60)], 30, 30)
    assert made["labels"].tolist() == [[12]]


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("./a.png", "a.png"),
        ("part/./a.png", "part/a.png"),
        ("part\\a.png", "part/a.png"),
        (".\\part\\a.png", "part/a.png"),
        ("part/a.png", "photos/part/a.png"),
        ("train/a.png", "a.png"),
        ("/data/train/a.png", "train/a.png"),
        ("a.png", "part/a.png"),
        ("gru\u0308n.png", "gr\u00fcn.png"),
    ],
)
def test_names_may_be_spelt_otherwise(written: str, file: str, tmp_path: Path) -> None:
    """D8: `./` and `\\` in names."""
    path = write(tmp_path / "i.json", [{"id": 1, "file_name": written}], [entry(1)])
    assert Annotations.read(path, [file]).scenes([file], [(80, 60)], 30, 30)["counts"].tolist() == [1]


@pytest.mark.parametrize("frame", [(160, 120), (40, 30), (800, 600), (160, 60)])
def test_annotations_at_another_size_are_scaled(frame: tuple[int, int], tmp_path: Path) -> None:
    """D9: masks were at the wrong place without a word."""
    width, height = frame
    across, down = width / 80, height / 60
    scaled = box(20 * across, 10 * down, 60 * across, 50 * down)
    expected = Annotations.read(instances(tmp_path / "a.json", [{"category_id": 1, "segmentation": SQUARE}]), ["a.png"])
    path = write(
        tmp_path / "b.json",
        [{"id": 1, "file_name": "a.png", "width": width, "height": height}],
        [entry(1, segmentation=scaled)],
    )
    found = Annotations.read(path, ["a.png"]).scenes(["a.png"], [(80, 60)], 30, 30)
    np.testing.assert_array_equal(found["masks"], expected.scenes(["a.png"], [(80, 60)], 30, 30)["masks"])


def test_annotations_of_a_picture_that_was_turned_are_refused(tmp_path: Path) -> None:
    """D9: scaling each side alone would squeeze the masks."""
    path = write(tmp_path / "i.json", [{"id": 1, "file_name": "a.png", "width": 60, "height": 80}], [entry(1)])
    read = Annotations.read(path, ["a.png"])
    assert read.scenes(["a.png"], [(80, 60)], 30, 30)["counts"].tolist() == [0]
    assert "turned" in read.skipped.reasons["#/annotations/0"]


def test_a_name_that_fits_two_files_belongs_to_neither(tmp_path: Path) -> None:
    """D9: both files got the same masks."""
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}, {"id": 3, "file_name": "y/c.png"}]
    path = write(tmp_path / "i.json", images, [entry(1), entry(2), entry(3)])
    names = ["x/a.png", "x/b.png", "x/c.png", "y/a.png", "y/c.png"]
    read = Annotations.read(path, names)
    assert read.scenes(names, [(80, 60)] * 5, 30, 30)["counts"].tolist() == [0, 1, 0, 0, 1]
    assert "fits two files" in read.skipped.reasons["#/images/0"]
    only = write(tmp_path / "only.json", images[:1], [entry(1)])
    with pytest.raises(DataError, match="without doubt"):
        Annotations.read(only, names)


def test_two_names_that_fit_one_file_are_refused(tmp_path: Path) -> None:
    """D9: the file would get the objects of both."""
    images = [{"id": 1, "file_name": "x/a.png"}, {"id": 2, "file_name": "y/a.png"}, {"id": 3, "file_name": "b.png"}]
    read = Annotations.read(write(tmp_path / "i.json", images, [entry(1), entry(2), entry(3)]), ["a.png", "b.png"])
    assert read.scenes(["a.png", "b.png"], [(80, 60)] * 2, 30, 30)["counts"].tolist() == [0, 1]
    assert set(read.skipped.reasons) == {"#/images/0", "#/images/1"}


def test_a_second_image_of_the_same_id_takes_nothing_from_the_first(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]
    read = Annotations.read(write(tmp_path / "i.json", images, [entry(1)]), ["a.png", "b.png"])
    assert read.scenes(["a.png", "b.png"], [(80, 60)] * 2, 30, 30)["counts"].tolist() == [1, 0]
    assert list(read.skipped.reasons) == ["#/images/1"]


SECRET = b"root:x:0:0:secret"


@pytest.mark.parametrize(
    "content",
    [
        SECRET,
        b'{"images": [' + b"[" * 200_000,
        b'{"a":' * 100_000,
        b"[]",
        b'"' + SECRET + b'"',
        b"\xff\xfe" + SECRET,
        b"1" * 10_000,
        b'{"images": {"' + SECRET + b'": 1}, "annotations": []}',
        b'{"images": [], "annotations": "' + SECRET + b'"}',
        b'{"images": [{"id": 1, "file_name": "' + SECRET + b'"}], "annotations": []}',
        b"",
    ],
)
def test_no_error_quotes_what_the_file_holds(content: bytes, tmp_path: Path) -> None:
    """D1, D8: bytes of any file were in the job's public error; deep JSON was an internal error."""
    path = tmp_path / "i.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"i\.json") as raised:
        Annotations.read(path, ["a.png"])
    shown: BaseException | None = raised.value
    while shown is not None:
        assert "secret" not in f"{shown}{shown!r}"
        shown = None if shown.__suppress_context__ else shown.__cause__ or shown.__context__


def test_annotations_that_are_no_regular_file_are_an_error(tmp_path: Path) -> None:
    """D1: a pipe would hang, and a device never end."""
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match="can't be read"):
            Annotations.read(path, ["a.png"])


def test_many_skipped_entries_are_all_counted_and_some_are_named(tmp_path: Path) -> None:
    path = instances(tmp_path / "i.json", [{"category_id": 1, "segmentation": None}] * 3_000)
    read = Annotations.read(path, ["a.png"])
    assert (read.skipped.count, len(read.skipped.reasons)) == (3_000, 1_000)


def test_mutated_files_raise_nothing_but_our_error(tmp_path: Path) -> None:
    """D8: any JSON, and any bytes."""
    generator = np.random.default_rng(0)
    values: list[Any] = [
        None,
        "",
        "x",
        -1,
        0,
        2**70,
        1e308,
        [],
        {},
        [[]],
        True,
        [[1, 2]],
        "\ud800",
        {"size": [1, 1]},
    ]
    whole = instances(
        tmp_path / "i.json",
        [
            {"category_id": 1, "segmentation": SQUARE},
            {"category_id": 2, "segmentation": COMPRESSED},
            {"category_id": 3, "segmentation": {"size": [60, 80], "counts": [4000, 800]}, "iscrowd": 1},
        ],
    ).read_bytes()
    path = tmp_path / "mutated.json"
    for round_ in range(400):
        if round_ % 2:
            content = json.loads(whole)
            here: Any = content
            while isinstance(here, (dict, list)) and here:
                keys = list(here) if isinstance(here, dict) else list(range(len(here)))
                key = keys[generator.integers(len(keys))]
                if generator.random() < 0.4 or not isinstance(here[key], (dict, list)):
                    here[key] = values[generator.integers(len(values))]
                    break
                here = here[key]
            path.write_text(json.dumps(content))
        else:
            damaged = np.frombuffer(whole, np.uint8).copy()
            damaged[generator.integers(0, len(damaged), 3)] = generator.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
        with suppress(DataError):
            Annotations.read(path, ["a.png", "b.png"]).scenes(["a.png", "b.png"], [(80, 60), (9, 9)], 30, 30)
