import subprocess
import sys

import pytest

from seqae.evaluation.names import (
    before_looks,
    is_main,
    modern,
    modern_row,
    of_split,
    standard_error_of,
    with_split,
)

OLD = {
    "test_mse": 0.1,
    "empty_mse": 0.2,
    "mse_step_0": 0.3,
    "mse_step_12": 0.4,
    "fg_ari": 0.5,
    "miou": 0.6,
    "count_accuracy": 0.7,
    "purity": 0.8,
    "completeness": 0.9,
    "active_share": 0.05,
}


def test_what_is_served_has_the_plain_name() -> None:
    assert before_looks("fg_ari") == "fg_ari_writes"
    assert standard_error_of("fg_ari") == "fg_ari_se"
    assert is_main("test/fg_ari")
    assert is_main("test/mse_step_3")
    assert not is_main("test/fg_ari_writes")
    assert not is_main(standard_error_of(before_looks("val/miou")))


def test_names_of_older_releases_get_their_split() -> None:
    """F1: older releases evaluated on the test scenes alone, and named no split."""
    renamed = modern(OLD)
    assert renamed["test/mse"] == 0.1
    assert renamed["test/empty_mse"] == 0.2
    assert renamed["test/mse_step_12"] == 0.4
    assert renamed["test/fg_ari"] == 0.5
    assert renamed["test/active_share"] == 0.05
    assert len(renamed) == len(OLD)
    assert all(name.startswith("test/") for name in renamed)


def test_names_with_a_split_stay_and_so_do_others() -> None:
    given = {
        "val/mse": 0.1,
        "test/mse": 0.2,
        "train/loss": 0.3,
        "best_trial": 4.0,
        "mse_step_x": 5.0,
        "epoch/loss": 6.0,
    }
    assert modern(given) == given
    assert modern(modern(OLD)) == modern(OLD)
    assert modern({}) == {}


def test_a_new_name_counts_where_both_are_given() -> None:
    assert modern({"test/mse": 0.1, "test_mse": 0.2}) == {"test/mse": 0.1}
    assert modern({"test_mse": 0.2, "test/mse": 0.1}) == {"test/mse": 0.1}


def test_rows_that_an_older_release_chose_by_are_of_val() -> None:
    old = {"test/mse": 0.01, "test/empty_mse": 0.05, "test/fg_ari": 0.9, "test/epoch": 2.0}
    assert modern_row(old) == {
        "val/mse": 0.01,
        "val/empty_mse": 0.05,
        "val/fg_ari": 0.9,
        "val/epoch": 2.0,
        "val/objective": pytest.approx(0.3),
    }
    assert modern_row({"test/mse": 0.01, "test/epoch": 2.0}) == {"val/mse": 0.01, "val/epoch": 2.0}


def test_other_rows_stay_the_final_test_too() -> None:
    for row in (
        {"train/loss": 0.1},
        {"test/mse": 0.01, "test/objective": 0.3},
        {"val/mse": 0.01, "val/epoch": 2.0},
        {},
    ):
        assert modern_row(row) == row


def test_a_split_is_put_before_names_and_taken_away() -> None:
    bare = {"mse": 0.1, "objective": 0.2}
    assert with_split(bare, "val") == {"val/mse": 0.1, "val/objective": 0.2}
    both = with_split(bare, "val") | with_split({"mse": 0.3}, "test") | {"valid": 1.0}
    assert of_split(both, "val") == bare
    assert of_split(both, "test") == {"mse": 0.3}
    assert of_split(both, "train") == {}


def test_names_and_objective_need_no_torch() -> None:
    """The control plane reads both."""
    program = "import sys, seqae.evaluation.names, seqae.evaluation.objective\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0
