"""Scores of owned pixels: by hand, and against scikit-learn and a formula of a published implementation."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, jaccard_score

from seqae.data.scenes import Scenes
from seqae.evaluation.scores import OwnerTables, Score, mean_score, object_count, score_owners, tabulate_owners
from tests.unit.seqae.evaluation.scenes import counts_of, masks_of, overlap_of, score, squares


def noisy_owners(scenes: Scenes, seed: int = 0) -> NDArray[np.uint8]:
    """Owners that are right for some scenes, and more and more wrong for the others; 6 segments."""
    rng = np.random.default_rng(seed)
    masks = masks_of(scenes)
    noise = np.linspace(0, 1, len(masks))[:, None, None]
    wrong = (rng.random(masks.shape) < noise) & (masks > 0)
    return np.where(wrong, rng.integers(0, 7, masks.shape), masks).astype(np.uint8)


def published_ari(truth: NDArray[np.integer], found: NDArray[np.integer]) -> float:
    """Adjusted Rand index as multi_object_datasets defines it: by expected and largest index of pairs of pixels."""
    pairs = np.array([[np.sum((truth == t) & (found == f)) for f in np.unique(found)] for t in np.unique(truth)], float)
    index = (pairs * (pairs - 1)).sum()
    of_truth, of_found = pairs.sum(axis=1), pairs.sum(axis=0)
    a, b = (of_truth * (of_truth - 1)).sum(), (of_found * (of_found - 1)).sum()
    expected = a * b / (len(truth) * (len(truth) - 1))
    return 1.0 if len(pairs) == len(pairs[0]) == 1 else float((index - expected) / ((a + b) / 2 - expected))


def test_right_owners_score_one(digit_scenes: Scenes) -> None:
    found = score(masks_of(digit_scenes), digit_scenes)
    assert {name: each.mean for name, each in found.named().items()} == dict.fromkeys(
        ("fg_ari", "fg_ari_all", "miou", "mbo", "count_accuracy_owned", "miou_whole"), 1
    )
    assert all(each.standard_error == pytest.approx(0, abs=1e-9) for each in found.named().values())


def test_the_numbers_of_the_segments_do_not_matter(digit_scenes: Scenes) -> None:
    owners = noisy_owners(digit_scenes)
    renamed = np.array([0, 3, 1, 6, 2, 5, 4], np.uint8)[owners]
    for one, other in zip(
        score(owners, digit_scenes).named().values(), score(renamed, digit_scenes).named().values(), strict=True
    ):
        assert one == pytest.approx(other)


@pytest.mark.parametrize("shared", [False, True])
def test_fg_ari_is_scikit_learns_and_the_published_one(overlapping_scenes: Scenes, shared: bool) -> None:
    owners, masks = noisy_owners(overlapping_scenes), masks_of(overlapping_scenes)
    counted = (masks > 0) & (shared | ~overlap_of(overlapping_scenes))
    of_sklearn = [
        adjusted_rand_score(mask[here], owner[here]) for mask, owner, here in zip(masks, owners, counted, strict=True)
    ]
    published = [
        published_ari(mask[here], owner[here]) for mask, owner, here in zip(masks, owners, counted, strict=True)
    ]
    found = score(owners, overlapping_scenes)
    ours = found.fg_ari_all if shared else found.fg_ari
    for theirs in (of_sklearn, published):
        assert ours.mean == pytest.approx(np.mean(theirs), abs=1e-6)
        assert ours.standard_error == pytest.approx(np.std(theirs, ddof=1) / math.sqrt(len(theirs)), abs=1e-6)
    assert found.fg_ari != found.fg_ari_all
    assert 0.1 < ours.mean < 0.9, "a case that can tell"


def test_overlaps_are_those_of_scikit_learn(overlapping_scenes: Scenes) -> None:
    owners, counts = noisy_owners(overlapping_scenes, 1), counts_of(overlapping_scenes)
    matched, best = [], []
    for row, count in enumerate(counts):
        alone = ~overlap_of(overlapping_scenes)[row]
        mask, owner = masks_of(overlapping_scenes)[row][alone], owners[row][alone]
        objects = [k for k in range(1, count + 1) if (mask == k).any()]
        each = np.array(
            [[jaccard_score(mask == k, owner == t, zero_division=0.0) for k in objects] for t in range(1, 7)]
        )
        best += list(each.max(axis=0))
        matched += list(each[linear_sum_assignment(each, maximize=True)])
    found = score(owners, overlapping_scenes)
    assert found.miou.mean == pytest.approx(np.mean(matched), abs=1e-6)
    assert found.mbo.mean == pytest.approx(np.mean(best), abs=1e-6)
    assert found.mbo.mean > found.miou.mean


def test_whole_objects_are_scored_with_what_is_hidden() -> None:
    """The second object lies half under the first one, where only its support can show."""
    two = squares(2)
    assert two.amodal is not None
    two.amodal[0, 2:6, 2:4] |= 2
    overlap_of(two)[0, 2:6, 2:4] = True
    owners = masks_of(two)
    supports = np.stack([owners == 1, owners == 2, owners == 3], axis=1)
    modal = score_owners(tabulate_owners(owners, two, segments=3, supports=supports))
    supports[0, 1, 2:6, 2:4] = True
    whole = score_owners(tabulate_owners(owners, two, segments=3, supports=supports))
    assert modal.miou_whole is not None
    assert whole.miou_whole is not None
    assert modal.miou_whole.mean == pytest.approx((1 + 16 / 24) / 2)
    assert whole.miou_whole.mean == 1
    assert modal.miou.mean == whole.miou.mean == 1, "what is shared is left out"
    plain = score_owners(tabulate_owners(owners, replace(two, amodal=None), segments=3))
    assert plain.miou_whole is None
    assert "miou_whole" not in plain.named()


def test_everything_in_one_segment() -> None:
    four = squares(4)
    found = score((masks_of(four) > 0).astype(np.uint8), four)
    assert found.fg_ari.mean == 0
    assert found.miou.mean == pytest.approx(1 / 16)  # one of four objects is matched, with an IoU of 1/4
    assert found.mbo.mean == pytest.approx(1 / 4)
    assert found.count_accuracy_owned.mean == 0


def test_segments_count_from_ten_pixels_on() -> None:
    one = squares(1)
    owners = masks_of(one).copy()
    owners[0, 2, :3] = 2
    assert score(owners, one).count_accuracy_owned.mean == 1, "13 pixels and 3"
    owners[0, 7, :6] = 2
    assert score(owners, one).count_accuracy_owned.mean == 1, "9 pixels"
    owners[0, 7, 6] = 2
    assert score(owners, one).count_accuracy_owned.mean == 0, "10 pixels"


def test_pixels_of_several_objects_count_where_the_name_says_so() -> None:
    two = squares(2)
    owners = masks_of(two).copy()
    owners[0, 2:6, 2:4] = 2  # the first object's right half goes to the other segment
    wrong = score(owners, two)
    overlap_of(two)[0, 2:6, 2:4] = True
    left_out = score(owners, two)
    assert wrong.fg_ari == wrong.fg_ari_all
    assert wrong.fg_ari.mean < 1
    assert left_out.fg_ari_all == wrong.fg_ari_all
    assert (left_out.fg_ari.mean, left_out.miou.mean, left_out.mbo.mean) == (1, 1, 1)


def test_a_crowd_is_no_object() -> None:
    two = squares(2)
    masks_of(two)[0, 7, :8] = 0
    overlap_of(two)[0, 7, :8] = True
    owners = masks_of(two).copy()
    owners[0, 7, :8] = 5
    assert score(owners, two).fg_ari_all.mean == 1


def test_scenes_of_one_object_do_not_count_for_fg_ari() -> None:
    one = squares(1)
    owners = masks_of(one).copy()
    owners[0, 2:6, :2] = 2
    assert score(owners, one).fg_ari == Score(1, None)
    assert score(owners, one).miou.mean == pytest.approx(1 / 2)


def test_an_object_that_nothing_owns() -> None:
    two = squares(2)
    found = score(np.zeros_like(masks_of(two)), two)
    assert (found.fg_ari.mean, found.miou.mean, found.mbo.mean, found.count_accuracy_owned.mean) == (0, 0, 0, 0)


def test_an_empty_scene_is_right_if_nothing_is_owned() -> None:
    empty = squares(0)
    found = score(masks_of(empty), empty)
    assert (found.fg_ari.mean, found.miou.mean, found.mbo.mean, found.count_accuracy_owned.mean) == (1, 1, 1, 1)
    assert score(np.ones_like(masks_of(empty)), empty).count_accuracy_owned.mean == 0


def test_tables_of_parts_score_like_the_whole(overlapping_scenes: Scenes) -> None:
    """An evaluation keeps tables of each batch in place of pixels; a batch may lack the objects with high numbers."""
    owners, most = noisy_owners(overlapping_scenes), object_count(overlapping_scenes)
    parts = [
        tabulate_owners(owners[a:b], overlapping_scenes.part(a, b), segments=6, objects=most)
        for a, b in pairwise([0, 1, 20, 40])
    ]
    joined = OwnerTables.joined(parts)
    assert score_owners(joined) == score(owners, overlapping_scenes)
    assert np.nanmean(joined.fg_ari()) == pytest.approx(score_owners(joined).fg_ari.mean)
    parts[1] = replace(parts[1], whole=None)
    assert score_owners(OwnerTables.joined(parts)).miou_whole is None


def test_fg_ari_of_each_image(digit_scenes: Scenes) -> None:
    tables = tabulate_owners(masks_of(digit_scenes), digit_scenes, segments=6)
    np.testing.assert_array_equal(np.isnan(tables.fg_ari()), counts_of(digit_scenes) < 2)


def test_a_standard_error_is_that_of_images() -> None:
    values = np.array([0.5, 0.7, 1.0, np.nan, 0.9])
    given = values[~np.isnan(values)]
    found = mean_score(values)
    assert found.mean == pytest.approx(given.mean())
    assert found.standard_error == pytest.approx(given.std(ddof=1) / 2)
    assert mean_score(np.array([0.5, np.nan])) == Score(0.5, None)
    assert mean_score(np.zeros(0)) == Score(1.0, None)


def test_objects_of_one_image_are_not_independent() -> None:
    """Copies of an image's value add to its weight, and nothing to what is known."""
    alone, often = np.array([[0.2], [0.8], [0.5]]), np.repeat(np.array([[0.2], [0.8], [0.5]]), 4, axis=1)
    assert mean_score(often) == pytest.approx(mean_score(alone))
    uneven = np.array([[1.0, 1.0, 1.0], [0.0, np.nan, np.nan]])
    found = mean_score(uneven)
    assert found.mean == 0.75
    # Residual sums per image: 3 - 3 * 0.75 and 0 - 0.75; n / (n - 1) = 2.
    assert found.standard_error == pytest.approx(math.sqrt(2 * (0.75**2 + 0.75**2)) / 4)


def test_images_without_masks_are_an_error() -> None:
    owners = np.zeros((1, 8, 8), np.uint8)
    with pytest.raises(ValueError, match="no masks"):
        tabulate_owners(owners, Scenes(np.zeros((1, 1, 8, 8), np.uint8)), segments=2)
    with pytest.raises(ValueError, match="1 images' owners and 2 masks"):
        tabulate_owners(owners, Scenes.joined([squares(1), squares(1)]), segments=2)
