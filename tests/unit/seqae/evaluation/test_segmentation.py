from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from seqae.config import MnistScenesConfig
from seqae.data.digits import bundled_digits
from seqae.data.mnist_scenes import make_scenes
from seqae.data.scenes import Scenes
from seqae.evaluation.segmentation import (
    SegmentTables,
    adjusted_rand,
    choose_active_share,
    connected_components_baseline,
    contingency,
    count_active,
    matched_ious,
    score_segments,
    score_tables,
    segment,
    tabulate_segments,
)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    config = MnistScenesConfig(train_scenes=60, min_digits=0, max_digits=4)
    return make_scenes(config, 64, 64, 1, bundled_digits().train, "train")


def perfect(scenes: Scenes, steps: int = 6) -> NDArray[np.float32]:
    """Writes [M, T, H, W] of a model that writes object k whole at step k, and nothing else."""
    assert scenes.masks is not None
    owner = scenes.masks[:, None] == np.arange(1, steps + 1)[:, None, None]
    return np.asarray(scenes.images / 255 * owner, np.float32)


def squares(count: int) -> Scenes:
    """One image [1, 1, 8, 8] with `count` white squares of 2 x 2 on a row."""
    mask = np.zeros((1, 8, 8), np.uint8)
    for k in range(count):
        mask[0, 3:5, 2 * k : 2 * k + 2] = k + 1
    images = np.where(mask > 0, 255, 0).astype(np.uint8)[:, None]
    return Scenes(images, mask, np.zeros((1, 8, 8), np.bool_), None, None, np.array([count]))


def test_perfect_writes_score_one(scenes: Scenes) -> None:
    writes = perfect(scenes)
    scores = score_segments(writes, writes.sum(axis=1), scenes)
    assert scores.fg_ari == 1
    assert scores.miou == 1
    assert scores.count_accuracy == 1
    assert scores.completeness == pytest.approx(1)
    assert scores.purity == pytest.approx(1)


def test_order_of_the_writes_does_not_matter(scenes: Scenes) -> None:
    writes = perfect(scenes)
    rng = np.random.default_rng(0)
    swapped = np.stack([image[rng.permutation(6)] for image in writes])
    assert score_segments(swapped, swapped.sum(axis=1), scenes) == score_segments(writes, writes.sum(axis=1), scenes)


def test_everything_in_one_write() -> None:
    four = squares(4)
    writes = np.zeros((1, 3, 8, 8), np.float32)
    writes[:, 0] = four.images[:, 0] / 255
    scores = score_segments(writes, writes.sum(axis=1), four, active_share=0.1)
    assert scores.fg_ari == 0
    assert scores.miou == pytest.approx(1 / 16)  # one of four objects is matched, with an IoU of 1/4
    assert scores.count_accuracy == 0
    assert scores.purity == pytest.approx(1 / 4)
    assert scores.completeness == 1


def test_an_object_shared_by_two_writes() -> None:
    one = squares(1)
    writes = np.zeros((1, 2, 8, 8), np.float32)
    writes[0, 0, 3:5, 0] = 1
    writes[0, 1, 3:5, 1] = 1
    writes[0, 1, 0, 7] = 1  # on the background: not the object's, so it lowers purity but not completeness
    scores = score_segments(writes, writes.sum(axis=1), one, active_share=0.1)
    assert scores.miou == pytest.approx(1 / 2)
    assert scores.completeness == pytest.approx(1 / 2)
    assert scores.purity == pytest.approx((1 + 2 / 3) / 2)
    assert scores.count_accuracy == 0


def test_an_empty_scene_scores_one_if_nothing_is_written() -> None:
    empty = squares(0)
    dark = np.zeros((1, 3, 8, 8), np.float32)
    scores = score_segments(dark, dark.sum(axis=1), empty, active_share=0.1)
    assert (scores.fg_ari, scores.miou, scores.count_accuracy) == (1, 1, 1)
    faint = dark + 0.01  # noise: 0.64 % of one white pixel's energy each
    assert score_segments(faint, faint.sum(axis=1), empty, active_share=0.1).count_accuracy == 1
    noisy = dark + 0.03  # 5.8 % each
    assert score_segments(noisy, noisy.sum(axis=1), empty, active_share=0.1).count_accuracy == 1
    bright = dark + 1
    assert score_segments(bright, bright.sum(axis=1), empty, active_share=0.1).count_accuracy == 0


def test_nothing_written_on_objects() -> None:
    two = squares(2)
    dark = np.zeros((1, 3, 8, 8), np.float32)
    scores = score_segments(dark, dark.sum(axis=1), two, active_share=0.1)
    assert (scores.fg_ari, scores.miou, scores.count_accuracy, scores.completeness) == (0, 0, 0, 0)


def test_only_active_writes_count_for_purity() -> None:
    one = squares(1)
    writes = perfect(one, steps=2)
    writes[0, 1, 0, 7] = 0.1  # on the background, with a 400th of the energy
    assert score_segments(writes, writes.sum(axis=1), one, active_share=0.1).purity == 1
    assert score_segments(writes, writes.sum(axis=1), one, active_share=0.001).purity == pytest.approx(0.5)


def test_scenes_of_one_object_do_not_count_for_fg_ari() -> None:
    one = squares(1)
    writes = np.zeros((1, 2, 8, 8), np.float32)
    writes[0, 0, 3:5, 0] = 1
    writes[0, 1, 3:5, 1] = 1
    assert score_segments(writes, writes.sum(axis=1), one, active_share=0.1).fg_ari == 1


def test_pixels_of_several_objects_are_left_out() -> None:
    two = squares(2)
    assert two.overlap is not None
    writes = perfect(two, steps=2)
    writes[0, :, 3:5, 1] = writes[0, ::-1, 3:5, 1]  # the first object's right half goes to the other write
    wrong = score_segments(writes, writes.sum(axis=1), two, active_share=0.1)
    two.overlap[0, 3:5, 1] = True
    left_out = score_segments(writes, writes.sum(axis=1), two, active_share=0.1)
    assert wrong.fg_ari < 1
    assert (left_out.fg_ari, left_out.miou, left_out.purity, left_out.completeness) == (1, 1, 1, 1)


def test_energy_on_pixels_of_several_objects_still_makes_a_write_active() -> None:
    two = squares(2)
    assert two.overlap is not None
    two.overlap[0, 3, 2:4] = two.overlap[0, 4, 2] = True  # three of the second object's four pixels
    writes = perfect(two, steps=2)
    assert score_segments(writes, writes.sum(axis=1), two, active_share=0.3).count_accuracy == 1


def test_adjusted_rand_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 5, (40, 16, 16)).astype(np.uint8)
    noise = rng.random((40, 1, 1)) * 1.2
    segments = np.where(rng.random(truth.shape) < noise, rng.integers(0, 6, truth.shape), truth)
    nowhere = np.zeros(truth.shape, np.bool_)
    ours = adjusted_rand(contingency(segments, truth, nowhere)[:, :, 1:])
    theirs = [adjusted_rand_score(a.ravel(), b.ravel()) for a, b in zip(truth, segments, strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert min(theirs) < 0.01
    assert max(theirs) > 0.9


@pytest.mark.parametrize(
    ("truth", "segments"),
    [([1, 1], [1, 1]), ([1, 2], [1, 1]), ([1, 1], [1, 2]), ([1, 2], [2, 1]), ([1], [0]), ([1, 2, 3], [4, 5, 6])],
)
def test_adjusted_rand_is_scikit_learns_where_partitions_are_trivial(truth: list[int], segments: list[int]) -> None:
    table = contingency(np.array([[segments]]), np.array([[truth]], np.uint8), np.zeros((1, 1, len(truth)), np.bool_))
    assert adjusted_rand(table[:, :, 1:])[0] == adjusted_rand_score(truth, segments)


def test_contingency_counts_pixels_by_hand() -> None:
    segments = np.array([[[0, 1, 2], [2, 2, 0]], [[1, 1, 1], [1, 1, 1]]])
    masks = np.array([[[0, 1, 1], [2, 2, 2]], [[0, 0, 0], [0, 2, 2]]], np.uint8)
    overlap = np.zeros((2, 2, 3), np.bool_)
    overlap[0, 1, 0] = True
    table = contingency(segments, masks, overlap)
    assert table[0].tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert table[1].tolist() == [[0, 0, 0], [4, 0, 2], [0, 0, 0]]


def test_matching_is_the_best_one_to_one() -> None:
    # Segment 1 covers object 1 whole and half of object 2; segment 2 covers the other half of object 2.
    table = np.array([[[90, 0, 0], [0, 6, 4], [0, 0, 4]]])
    assert matched_ious(table).tolist() == [6 / 10, 4 / 8]
    # Greedy would give object 1 the first segment (0.5) and object 2 nothing; together 0.4 and 0.4 are better.
    table = np.array([[[0, 0, 0], [0, 10, 8], [0, 2, 0]]])
    ious = matched_ious(table)
    assert ious.tolist() == [2 / 12, 8 / 18]


def test_an_object_without_a_segment_scores_zero() -> None:
    table = np.array([[[0, 0, 5], [0, 5, 0]]])
    assert matched_ious(table).tolist() == [1, 0]


def test_segment_is_the_strongest_write_or_background() -> None:
    writes = np.array([[[[0.5, 0.2, 0.04]], [[0.4, 0.6, 0.05]]]])
    assert segment(writes, writes.sum(axis=1)).tolist() == [[[1, 2, 0]]]


def test_active_share_is_the_middle_of_the_best_range() -> None:
    shares = np.array([[0.9, 0.06, 0.04], [0.5, 0.4, 0.1], [0.4, 0.35, 0.25]])
    counts = np.array([1, 2, 3])
    share = choose_active_share(shares, counts)
    assert share == pytest.approx((0.1 + 0.25) / 2)
    assert count_active(shares, share).tolist() == [1, 2, 3]
    # A scene with more objects than writes can't be right, and must not disturb the others.
    more = choose_active_share(np.vstack([shares, [0.4, 0.3, 0.3]]), np.array([1, 2, 3, 4]))
    assert more == pytest.approx(share)


def test_active_share_is_the_best_of_all_thresholds() -> None:
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.ones(5), 200)
    counts = rng.integers(0, 6, 200)
    chosen = (count_active(shares, choose_active_share(shares, counts)) == counts).mean()
    best = max((count_active(shares, share) == counts).mean() for share in np.linspace(0, 1, 5001))
    assert chosen >= best


def test_the_threshold_for_counts_comes_from_other_images() -> None:
    """With random writes and counts, a threshold chosen on the scored images themselves would look too good."""
    rng = np.random.default_rng(2)
    many = [squares(int(count)) for count in rng.integers(1, 4, 12)]
    scenes = Scenes(
        images=np.concatenate([each.images for each in many]),
        masks=np.concatenate([each.masks for each in many if each.masks is not None]),
        overlap=np.zeros((12, 8, 8), np.bool_),
        counts=np.concatenate([each.counts for each in many if each.counts is not None]),
    )
    writes = rng.random((12, 4, 8, 8)).astype(np.float32) * rng.random((12, 4, 1, 1))
    crossed = score_segments(writes, writes.sum(axis=1), scenes)
    peeking = score_segments(writes, writes.sum(axis=1), scenes, active_share=crossed.active_share)
    assert crossed.count_accuracy < peeking.count_accuracy


def test_tables_of_parts_score_like_the_whole(scenes: Scenes) -> None:
    """An evaluation keeps tables of each batch in place of pixels; a batch may lack the objects with high numbers."""
    rng = np.random.default_rng(3)
    writes = perfect(scenes) + rng.random((60, 6, 64, 64)).astype(np.float32) * 0.6
    canvases = writes.sum(axis=1)
    whole = score_segments(writes, canvases, scenes)
    assert scenes.masks is not None
    most = int(scenes.masks.max())
    cuts = [0, 1, 20, 60]
    parts = [tabulate_segments(writes[a:b], canvases[a:b], scenes.part(a, b), objects=most) for a, b in pairwise(cuts)]
    joined = SegmentTables.joined(parts)
    assert astuple(score_tables(joined)) == pytest.approx(astuple(whole))
    assert astuple(score_tables(joined, 0.2)) == pytest.approx(
        astuple(score_segments(writes, canvases, scenes, active_share=0.2))
    )
    assert scenes.counts is not None
    each = joined.fg_ari()
    np.testing.assert_array_equal(np.isnan(each), scenes.counts < 2)
    assert np.nanmean(each) == pytest.approx(whole.fg_ari)


def test_connected_components_solve_scenes_whose_digits_do_not_touch() -> None:
    baseline = connected_components_baseline(squares(1), least_pixels=4)
    assert (baseline.fg_ari, baseline.miou, baseline.count_accuracy) == (1, 1, 1)
    touching = connected_components_baseline(squares(2), least_pixels=4)
    assert (touching.fg_ari, touching.miou, touching.count_accuracy) == (0, 0.25, 0)


def test_pixels_that_touch_at_a_corner_are_connected() -> None:
    mask = np.zeros((1, 8, 8), np.uint8)
    mask[0, 2:4, 2:4] = mask[0, 4:6, 4:6] = 1
    images = np.where(mask > 0, 255, 0).astype(np.uint8)[:, None]
    one = Scenes(images, mask, np.zeros((1, 8, 8), np.bool_), None, None, np.array([1]))
    baseline = connected_components_baseline(one, least_pixels=4)
    assert (baseline.miou, baseline.count_accuracy) == (1, 1)


def test_connected_components_on_real_scenes_are_good_but_not_perfect(scenes: Scenes) -> None:
    baseline = connected_components_baseline(scenes)
    assert 0.8 < baseline.fg_ari < 1
    assert 0.5 < baseline.count_accuracy < 1


def test_images_without_masks_are_an_error() -> None:
    writes = np.zeros((1, 2, 8, 8), np.float32)
    with pytest.raises(ValueError, match="no masks"):
        score_segments(writes, writes[:, 0], Scenes(np.zeros((1, 1, 8, 8), np.uint8)))
    with pytest.raises(ValueError, match="2 masks"):
        score_segments(writes, writes[:, 0], Scenes(*(np.concatenate([part] * 2) for part in _parts(squares(1)))))


def _parts(scenes: Scenes) -> tuple[NDArray[np.generic], ...]:
    assert scenes.masks is not None
    assert scenes.overlap is not None
    assert scenes.counts is not None
    # Boxes and labels play no part here; any array of the right length will do.
    return scenes.images, scenes.masks, scenes.overlap, scenes.masks, scenes.masks, scenes.counts
