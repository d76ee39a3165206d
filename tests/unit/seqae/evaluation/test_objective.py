import math

import pytest

from seqae.evaluation.objective import objective


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
    assert math.isfinite(objective({"mse": 0.01, "empty_mse": 0.0}))
    assert objective({"mse": 0.0, "empty_mse": 0.0}) == 0


@pytest.mark.parametrize("missing", ["mse", "empty_mse"])
def test_what_is_missing_is_an_error(missing: str) -> None:
    given = {"mse": 0.01, "empty_mse": 0.05}
    del given[missing]
    with pytest.raises(KeyError, match=missing):
        objective(given)
