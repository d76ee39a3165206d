import numpy as np
import pytest

from seqae.evaluation.objective import objective, paired_difference


def test_the_objective_is_the_share_of_the_error_and_of_what_is_mixed_up() -> None:
    assert objective({"mse": 0.01, "empty_mse": 0.05, "fg_ari": 0.9}) == pytest.approx(0.2 + 0.1)
    assert objective({"mse": 0.01, "empty_mse": 0.05, "fg_ari": -0.1, "miou": 0.5}) == pytest.approx(0.2 + 1.1)


def test_without_masks_the_error_counts_alone() -> None:
    assert objective({"mse": 0.01, "empty_mse": 0.05}) == pytest.approx(0.2)


def test_a_bottleneck_that_writes_two_objects_at_once_does_not_win() -> None:
    """F1: by the squared error alone it did."""
    wide = objective({"mse": 0.002, "empty_mse": 0.055, "fg_ari": 0.6})
    good = objective({"mse": 0.004, "empty_mse": 0.055, "fg_ari": 0.98})
    assert good < wide


def test_dark_images_have_a_finite_objective() -> None:
    assert np.isfinite(objective({"mse": 0.01, "empty_mse": 0.0}))
    assert objective({"mse": 0.0, "empty_mse": 0.0}) == 0


@pytest.mark.parametrize("missing", ["mse", "empty_mse"])
def test_what_is_missing_is_an_error(missing: str) -> None:
    given = {"mse": 0.01, "empty_mse": 0.05}
    del given[missing]
    with pytest.raises(KeyError, match=missing):
        objective(given)


def test_a_better_challenger_has_a_positive_difference() -> None:
    champion = np.array([0.5, 0.4, 0.6, 0.5])
    mean, error = paired_difference(champion - np.array([0.1, 0.2, 0.1, 0.2]), champion)
    assert mean == pytest.approx(0.15)
    assert error == pytest.approx(np.std([0.1, 0.2, 0.1, 0.2], ddof=1) / 2)
    assert paired_difference(champion, champion) == (0, 0)


def test_pairs_cancel_what_makes_images_hard() -> None:
    """The images differ a hundred times more among each other than the models do."""
    rng = np.random.default_rng(0)
    hardness = rng.random(200) * 10
    mean, error = paired_difference(hardness + rng.random(200) * 0.1, hardness + 0.1 + rng.random(200) * 0.1)
    assert mean == pytest.approx(0.1, abs=0.01)
    assert error < 0.005


def test_one_image_says_nothing() -> None:
    mean, error = paired_difference(np.array([0.1]), np.array([0.9]))
    assert mean == pytest.approx(0.8)
    assert error == float("inf")


@pytest.mark.parametrize(("one", "other"), [(3, 4), (1, 3), (0, 0)])
def test_other_numbers_of_images_do_not_pair(one: int, other: int) -> None:
    with pytest.raises(ValueError, match="do not pair"):
        paired_difference(np.zeros(one), np.zeros(other))
