import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from seqae.evaluation.contingency import adjusted_rand, best_overlaps, contingency, ious, matched_overlaps


def test_adjusted_rand_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 5, (40, 16, 16)).astype(np.uint8)
    noise = rng.random((40, 1, 1)) * 1.2
    segments = np.where(rng.random(truth.shape) < noise, rng.integers(0, 6, truth.shape), truth)
    everywhere = np.ones(truth.shape, np.bool_)
    ours = adjusted_rand(contingency(segments, truth, everywhere)[:, :, 1:])
    theirs = [adjusted_rand_score(a.ravel(), b.ravel()) for a, b in zip(truth, segments, strict=True)]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert min(theirs) < 0.01
    assert max(theirs) > 0.9


@pytest.mark.parametrize(
    ("truth", "segments"),
    [([1, 1], [1, 1]), ([1, 2], [1, 1]), ([1, 1], [1, 2]), ([1, 2], [2, 1]), ([1], [0]), ([1, 2, 3], [4, 5, 6])],
)
def test_adjusted_rand_is_scikit_learns_where_partitions_are_trivial(truth: list[int], segments: list[int]) -> None:
    table = contingency(np.array([[segments]]), np.array([[truth]], np.uint8), np.ones((1, 1, len(truth)), np.bool_))
    assert adjusted_rand(table[:, :, 1:])[0] == adjusted_rand_score(truth, segments)


def test_contingency_counts_pixels_by_hand() -> None:
    segments = np.array([[[0, 1, 2], [2, 2, 0]], [[1, 1, 1], [1, 1, 1]]])
    masks = np.array([[[0, 1, 1], [2, 2, 2]], [[0, 0, 0], [0, 2, 2]]], np.uint8)
    counted = np.ones((2, 2, 3), np.bool_)
    counted[0, 1, 0] = False
    table = contingency(segments, masks, counted)
    assert table[0].tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert table[1].tolist() == [[0, 0, 0], [4, 0, 2], [0, 0, 0]]


def test_matching_is_the_best_one_to_one() -> None:
    # Segment 1 covers object 1 whole and half of object 2; segment 2 covers the other half of object 2.
    table = np.array([[[90, 0, 0], [0, 6, 4], [0, 0, 4]]])
    everything = np.ones((1, 2), np.bool_)
    assert matched_overlaps(ious(table), everything).tolist() == [[6 / 10, 4 / 8]]
    # Greedy would give object 1 the first segment (0.5) and object 2 nothing; together 0.4 and 0.4 are better.
    table = np.array([[[0, 0, 0], [0, 10, 8], [0, 2, 0]]])
    assert matched_overlaps(ious(table), everything).tolist() == [[2 / 12, 8 / 18]]


def test_the_best_overlap_may_be_another_objects_too() -> None:
    table = np.array([[[0, 0, 0], [0, 10, 8], [0, 2, 0]]])
    assert best_overlaps(ious(table), np.ones((1, 2), np.bool_)).tolist() == [[10 / 20, 8 / 18]]


def test_pixels_of_the_background_are_in_the_union() -> None:
    table = np.array([[[7, 1], [3, 4]]])
    assert ious(table).tolist() == [[[4 / 8]]]


def test_an_object_without_a_segment_scores_zero() -> None:
    table = np.array([[[0, 0, 5], [0, 5, 0]]])
    present = np.ones((1, 2), np.bool_)
    assert matched_overlaps(ious(table), present).tolist() == [[1, 0]]
    assert best_overlaps(ious(table), present).tolist() == [[1, 0]]


def test_an_object_that_is_not_there_has_no_score() -> None:
    table = np.array([[[0, 0, 0], [0, 5, 0]]])
    present = np.array([[True, False]])
    for found in (matched_overlaps(ious(table), present), best_overlaps(ious(table), present)):
        assert found[0, 0] == 1
        assert np.isnan(found[0, 1])
