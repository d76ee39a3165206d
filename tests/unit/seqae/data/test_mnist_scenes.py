import hashlib
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from seqae.config import MnistScenesConfig
from seqae.data.digits import SIDE, Digits, DigitSource, bundled_digits
from seqae.data.mnist_scenes import VISIBLE, make_scenes, scene_count
from seqae.data.scenes import Scenes
from seqae.data.splits import SPLITS
from seqae.errors import DataError


@pytest.fixture(scope="module")
def digits() -> DigitSource:
    return bundled_digits()


def scenes(digits: DigitSource, count: int = 40, channels: int = 1, side: int = 64, **settings: Any) -> Scenes:
    config = MnistScenesConfig.model_validate({"train_scenes": count, **settings})
    return make_scenes(config, side, side, 3 if channels == 3 else 1, digits.train, "train")


def checksum(made: Scenes) -> str:
    digest = hashlib.sha256()
    for array in (made.images, made.masks, made.overlap, made.boxes, made.labels, made.counts):
        assert array is not None
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


# Scenes are the same on every machine and in every release; a change here must raise `seqae.data.cache.FORMAT_VERSION`.
@pytest.mark.parametrize(
    ("settings", "channels", "expected"),
    [
        ({}, 1, "5452c467a35fb28e"),
        ({"seed": 1, "max_overlap": 0.33, "min_scale": 0.5, "max_scale": 1.5}, 3, "5f3614991daa3f4a"),
        ({"min_digits": 7, "max_digits": 7}, 1, "3cf602ed4a7a122c"),
    ],
    ids=["easy", "hard", "seven"],
)
def test_same_settings_give_the_same_bytes(
    digits: DigitSource, settings: dict[str, Any], channels: int, expected: str
) -> None:
    assert checksum(scenes(digits, channels=channels, **settings)) == expected


def test_test_scenes_are_those_of_the_releases_before_val(digits: DigitSource) -> None:
    """F1: scores of before and after the third split compare; `val` has a random stream of its own."""
    config = MnistScenesConfig(test_scenes=40, val_scenes=40)
    assert checksum(make_scenes(config, 64, 64, 1, digits.test, "test")) == "f81a6981582cc460"
    assert checksum(make_scenes(config, 64, 64, 1, digits.val, "val")) == "949a294249831952"


def test_seed_and_split_change_the_scenes(digits: DigitSource) -> None:
    config = MnistScenesConfig(train_scenes=5, val_scenes=5, test_scenes=5)
    splits = [make_scenes(config, 64, 64, 1, digits.train, split) for split in SPLITS]
    other = make_scenes(config.model_copy(update={"seed": 1}), 64, 64, 1, digits.train, "train")
    assert len({checksum(made) for made in (*splits, other)}) == 4


def test_each_split_has_its_own_number_of_scenes() -> None:
    config = MnistScenesConfig(train_scenes=5, val_scenes=4, test_scenes=3)
    assert [scene_count(config, split) for split in SPLITS] == [5, 4, 3]


def test_a_part_made_alone_is_the_same_part(digits: DigitSource) -> None:
    config = MnistScenesConfig(train_scenes=30, min_digits=5, max_digits=7)
    whole = make_scenes(config, 64, 64, 3, digits.train, "train")
    part = make_scenes(config, 64, 64, 3, digits.train, "train", range(12, 20))
    for name in ("images", "masks", "overlap", "boxes", "labels", "counts", "amodal"):
        np.testing.assert_array_equal(getattr(whole, name)[12:20], getattr(part, name))


def test_masks_boxes_labels_and_counts_agree(digits: DigitSource) -> None:
    made = scenes(digits, min_digits=0, max_digits=5, min_scale=0.6, max_scale=1.3)
    assert made.masks is not None
    assert made.boxes is not None
    assert made.labels is not None
    assert made.counts is not None
    assert set(made.counts) == {0, 1, 2, 3, 4, 5}
    assert made.amodal is not None
    for image, mask, boxes, labels, count, amodal in zip(
        made.images, made.masks, made.boxes, made.labels, made.counts, made.amodal, strict=True
    ):
        assert sorted(set(mask.flat) - {0}) == list(range(1, count + 1))
        assert (labels[:count] >= 0).all()
        assert (labels[count:] == -1).all()
        assert np.isnan(boxes[count:]).all()
        np.testing.assert_array_equal(mask > 0, image[0] >= VISIBLE)
        np.testing.assert_array_equal(amodal, np.where(mask > 0, 2.0 ** (mask.astype(int) - 1), 0))
        unseen = image[0].copy()
        for k, (left, top, right, bottom) in enumerate(boxes[:count].astype(int), start=1):
            inside = image[0, top:bottom, left:right]
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.any(), "the box is tight"
            assert (mask[top:bottom, left:right] == k).sum() == (mask == k).sum()
            unseen[top:bottom, left:right] = 0
        assert not unseen.any(), "no ink outside the boxes"


def shares(made: Scenes) -> list[float]:
    """For every two boxes of a scene, the shared area as a part of the smaller box."""
    assert made.boxes is not None
    assert made.counts is not None
    found = []
    for boxes, count in zip(made.boxes, made.counts, strict=True):
        for a, b in combinations(boxes[:count].astype(np.float64), 2):
            sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
            smaller = min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2]))
            found.append(float(np.prod(sides.clip(0)) / smaller))
    return found


def test_boxes_stay_apart_without_overlap(digits: DigitSource) -> None:
    made = scenes(digits, min_digits=4, max_digits=4)
    assert max(shares(made)) == 0
    assert made.overlap is not None
    assert not made.overlap.any()


def test_overlap_happens_and_stays_under_its_bound(digits: DigitSource) -> None:
    made = scenes(digits, min_digits=6, max_digits=6, max_overlap=0.4)
    assert 0.3 < max(shares(made)) <= 0.4
    assert made.overlap is not None
    assert made.masks is not None
    assert made.overlap.any()
    assert (made.masks[made.overlap] > 0).all()


def test_seven_digits_fit_into_64_pixels(digits: DigitSource) -> None:
    made = scenes(digits, count=100, min_digits=7, max_digits=7)
    assert made.counts is not None
    assert (made.counts == 7).all()
    assert max(shares(made)) == 0


def test_a_number_of_digits_without_room_goes_down(digits: DigitSource) -> None:
    made = scenes(digits, count=10, side=32, min_digits=1, max_digits=16)
    assert made.counts is not None
    assert made.counts.min() >= 1
    assert made.counts.max() <= 5
    assert max(shares(made)) == 0


def test_too_many_digits_are_an_error(digits: DigitSource) -> None:
    with pytest.raises(DataError, match=r"9 digits of scale 1\.0 to 1\.0 do not fit into an image of 32 x 32"):
        scenes(digits, side=32, min_digits=9, max_digits=9)


def test_a_digit_larger_than_the_image_is_an_error(digits: DigitSource) -> None:
    with pytest.raises(DataError, match="scale 2"):
        scenes(digits, side=32, max_scale=2.0)


def test_scale_sets_the_size(digits: DigitSource) -> None:
    heights = {}
    for scale in (0.5, 1.0, 1.5):
        made = scenes(digits, min_digits=1, max_digits=1, min_scale=scale, max_scale=scale)
        assert made.boxes is not None
        heights[scale] = float(np.mean(made.boxes[:, 0, 3] - made.boxes[:, 0, 1]))
    # The resize blurs an edge by up to a pixel.
    assert heights[0.5] == pytest.approx(heights[1.0] / 2, abs=2)
    assert heights[1.5] == pytest.approx(heights[1.0] * 1.5, abs=2)


def test_colour_keeps_the_layout_and_tints_every_digit(digits: DigitSource) -> None:
    grey, colour = scenes(digits), scenes(digits, channels=3)
    assert colour.images.shape == (40, 3, 64, 64)
    assert grey.masks is not None
    assert colour.masks is not None
    assert grey.counts is not None
    np.testing.assert_array_equal(grey.masks, colour.masks)
    np.testing.assert_array_equal(colour.images.max(axis=1), grey.images[:, 0])
    for image, mask, count in zip(colour.images, colour.masks, grey.counts, strict=True):
        hues = {tuple(image[:, mask == k].max(axis=1)) for k in range(1, count + 1)}
        assert len(hues) == count
        assert all(max(hue) > 200 and min(hue) == 0 for hue in hues), "bright and saturated"


def test_digits_under_each_other_add_by_maximum() -> None:
    wide, high = np.zeros((2, SIDE, SIDE), np.uint8)
    wide[12:16, 4:24] = 100
    high[4:24, 12:16] = 200
    crosses = Digits(np.stack([wide, high]), np.array([0, 1]))
    config = MnistScenesConfig(train_scenes=40, min_digits=2, max_digits=2, max_overlap=1)
    made = make_scenes(config, SIDE, SIDE, 1, crosses, "train")
    assert made.overlap is not None
    assert made.masks is not None
    assert made.labels is not None
    assert set(np.unique(made.images)) == {0, 100, 200}
    assert made.amodal is not None
    checked = 0
    for image, mask, overlap, labels, amodal in zip(
        made.images, made.masks, made.overlap, made.labels, made.amodal, strict=True
    ):
        if overlap.any() and set(labels) == {0, 1}:
            assert (image[0][overlap] == 200).all()
            assert set(mask[overlap]) == {list(labels).index(1) + 1}, "the brighter one is on top"
            assert set(amodal[overlap]) == {0b11}
            for k in (1, 2):
                assert ((amodal >> (k - 1)) & 1).sum() == 80, "each is whole, whatever lies on it"
            checked += 1
    assert checked > 5


def test_digits_of_the_splits_are_disjoint(digits: DigitSource) -> None:
    train, val, test = ({image.tobytes() for image in part.images} for part in (digits.train, digits.val, digits.test))
    assert (len(train), len(val), len(test)) == (1349, 149, 299)
    assert not train & val
    assert not train & test
    assert not val & test
    assert (np.bincount(digits.val.labels, minlength=10) > 10).all(), "each digit is there"


def test_bundled_digits_look_like_mnist(digits: DigitSource) -> None:
    images = digits.train.images
    assert images.shape[1:] == (SIDE, SIDE)
    assert images.dtype == np.uint8
    assert not images[:, :4].any(), "an empty frame, as in MNIST"
    assert np.median(images.max(axis=(1, 2))) == 255
    # MNIST: 19 % of the pixels have ink, and a little more than half of that is nearly white.
    inked = (images > 0).mean()
    assert 0.1 < inked < 0.3
    assert (images > 200).sum() > 0.4 * (images > 0).sum()
    assert (np.bincount(digits.test.labels, minlength=10) > 20).all()


def test_first_takes_the_first_images(digits: DigitSource) -> None:
    made = scenes(digits, count=5)
    two = made.first(2)
    np.testing.assert_array_equal(two.images, made.images[:2])
    assert two.counts is not None
    assert len(two.counts) == 2
    assert Scenes(made.images).first(3).masks is None


def test_joined_lays_parts_end_to_end(digits: DigitSource) -> None:
    made = scenes(digits, count=5)
    again = Scenes.joined([made.first(2), Scenes(*(part[2:] for part in vars(made).values()))])
    for name, part in vars(made).items():
        np.testing.assert_array_equal(getattr(again, name), part)
    assert Scenes.joined([made, Scenes(made.images)]).masks is None


def test_never_seen_digits_are_kept_for_val_and_test(digits: DigitSource) -> None:
    config = MnistScenesConfig(train_labels=(0, 1, 2), test_labels=(8, 9))
    for split in SPLITS:
        shown = {0, 1, 2} if split == "train" else {8, 9}
        made = make_scenes(config, 64, 64, 1, digits.train, split, range(20))
        assert made.labels is not None
        assert set(np.unique(made.labels)) - {-1} == shown


def test_labels_without_digits_are_named() -> None:
    digits = bundled_digits().train
    only = Digits(digits.images[digits.labels == 1], digits.labels[digits.labels == 1])
    with pytest.raises(DataError, match="no digits 0, 9 to make scenes of"):
        make_scenes(MnistScenesConfig(train_labels=(0, 9)), 64, 64, 1, only, "train", range(1))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_texture_lies_behind_the_same_digits(digits: DigitSource, channels: int) -> None:
    black = scenes(digits, 6, channels)
    made = scenes(digits, 6, channels, background="texture")
    assert black.masks is not None
    assert made.masks is not None
    np.testing.assert_array_equal(made.masks, black.masks)
    assert (made.images >= black.images).all()
    empty = black.images.max(axis=1) == 0
    behind = made.images.max(axis=1)[empty]
    assert behind.min() >= 16
    assert behind.max() <= 128
    assert (made.images[0] != made.images[1]).any()
    full = black.images.max(axis=1) == 255
    np.testing.assert_array_equal(made.images.max(axis=1)[full], 255)


def test_a_large_image_holds_twelve_digits(digits: DigitSource) -> None:
    made = scenes(digits, 3, side=128, min_digits=12, max_digits=12)
    assert made.counts is not None
    assert made.amodal is not None
    assert list(made.counts) == [12] * 3
    assert made.amodal.max() >= 1 << 11
