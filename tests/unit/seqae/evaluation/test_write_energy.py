from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from seqae.data.scenes import Scenes
from seqae.evaluation.scores import object_count
from seqae.evaluation.write_energy import (
    EnergyScores,
    EnergyTables,
    choose_active_share,
    count_active,
    score_energy,
    tabulate_energy,
)
from tests.unit.seqae.evaluation.scenes import overlap_of, perfect, squares


def score(writes: NDArray[np.floating], scenes: Scenes, active_share: float | None = None) -> EnergyScores:
    return score_energy(tabulate_energy(writes, scenes, objects=object_count(scenes)), active_share)


def test_perfect_writes_score_one(digit_scenes: Scenes) -> None:
    scores = score(perfect(digit_scenes), digit_scenes)
    assert scores.count_accuracy.mean == 1
    assert scores.completeness == pytest.approx(1)
    assert scores.purity == pytest.approx(1)


def test_order_of_the_writes_does_not_matter(digit_scenes: Scenes) -> None:
    writes = perfect(digit_scenes)
    rng = np.random.default_rng(0)
    swapped = np.stack([image[rng.permutation(6)] for image in writes])
    assert score(swapped, digit_scenes) == score(writes, digit_scenes)


def test_everything_in_one_write() -> None:
    four = squares(4)
    writes = np.zeros((1, 3, 8, 16), np.float32)
    writes[:, 0] = four.images[:, 0] / 255
    scores = score(writes, four, 0.1)
    assert scores.count_accuracy.mean == 0
    assert scores.purity == pytest.approx(1 / 4)
    assert scores.completeness == 1


def test_an_object_shared_by_two_writes() -> None:
    one = squares(1)
    writes = np.zeros((1, 2, 8, 16), np.float32)
    writes[0, 0, 2:6, :2] = 1
    writes[0, 1, 2:6, 2:4] = 1
    writes[0, 1, 0, 12:] = 1  # on the background: not the object's, so it lowers purity but not completeness
    scores = score(writes, one, 0.1)
    assert scores.completeness == pytest.approx(1 / 2)
    assert scores.purity == pytest.approx((1 + 2 / 3) / 2)
    assert scores.count_accuracy.mean == 0


def test_an_empty_scene_is_right_if_nothing_is_written() -> None:
    empty = squares(0)
    dark = np.zeros((1, 3, 8, 16), np.float32)
    assert score(dark, empty, 0.1).count_accuracy.mean == 1
    faint = dark + 0.01  # noise: 1.3 % of one white pixel's energy each
    assert score(faint, empty, 0.1).count_accuracy.mean == 1
    noisy = dark + 0.02  # 5.1 % each
    assert score(noisy, empty, 0.1).count_accuracy.mean == 1
    assert score(dark + 1, empty, 0.1).count_accuracy.mean == 0


def test_nothing_written_on_objects() -> None:
    two = squares(2)
    scores = score(np.zeros((1, 3, 8, 16), np.float32), two, 0.1)
    assert (scores.count_accuracy.mean, scores.completeness) == (0, 0)


def test_only_active_writes_count_for_purity() -> None:
    one = squares(1)
    writes = perfect(one, steps=2)
    writes[0, 1, 0, 7] = 0.2  # on the background, with a 400th of the energy
    assert score(writes, one, 0.1).purity == 1
    assert score(writes, one, 0.001).purity == pytest.approx(0.5)


def test_pixels_of_several_objects_are_left_out() -> None:
    two = squares(2)
    writes = perfect(two, steps=2)
    writes[0, :, 2:6, 2:4] = writes[0, ::-1, 2:6, 2:4]  # the first object's right half goes to the other write
    assert score(writes, two, 0.1).purity < 1
    overlap_of(two)[0, 2:6, 2:4] = True
    left_out = score(writes, two, 0.1)
    assert (left_out.purity, left_out.completeness) == (1, 1)


def test_energy_on_pixels_of_several_objects_still_makes_a_write_active() -> None:
    two = squares(2)
    overlap_of(two)[0, 2:5, 4:8] = True  # three quarters of the second object
    assert score(perfect(two, steps=2), two, 0.3).count_accuracy.mean == 1


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
    scenes = Scenes.joined([squares(int(count)) for count in rng.integers(1, 4, 12)])
    writes = rng.random((12, 4, 8, 16)).astype(np.float32) * rng.random((12, 4, 1, 1))
    crossed = score(writes, scenes)
    peeking = score(writes, scenes, crossed.active_share)
    assert crossed.count_accuracy.mean < peeking.count_accuracy.mean


def test_tables_of_parts_score_like_the_whole(digit_scenes: Scenes) -> None:
    rng = np.random.default_rng(3)
    writes = perfect(digit_scenes) + rng.random((60, 6, 64, 64)).astype(np.float32) * 0.6
    most = object_count(digit_scenes)
    parts = [tabulate_energy(writes[a:b], digit_scenes.part(a, b), objects=most) for a, b in pairwise([0, 1, 20, 60])]
    joined, whole = score_energy(EnergyTables.joined(parts)), score(writes, digit_scenes)
    assert joined.count_accuracy == whole.count_accuracy
    assert (joined.purity, joined.completeness) == pytest.approx((whole.purity, whole.completeness))


def test_images_without_masks_are_an_error() -> None:
    writes = np.zeros((1, 2, 8, 16), np.float32)
    with pytest.raises(ValueError, match="no masks"):
        tabulate_energy(writes, Scenes(np.zeros((1, 1, 8, 16), np.uint8)), objects=1)
    with pytest.raises(ValueError, match="2 masks"):
        tabulate_energy(writes, Scenes.joined([squares(1), squares(1)]), objects=1)
