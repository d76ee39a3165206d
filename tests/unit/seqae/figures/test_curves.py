"""Figures 5 and 9."""

import pytest

from seqae.config import GrowthStep
from seqae.errors import FigureError
from seqae.figures.curves import evaluation_curve, training_curve
from tests.unit.seqae.figures.helpers import curve, has_colour

VERMILION = (0xD5, 0x5E, 0x00)
PURPLE = (0xCC, 0x79, 0xA7)


def test_the_test_curve_is_summed_up() -> None:
    figure = evaluation_curve(curve([0.3, 0.1, 0.2]), empty=0.5)
    assert figure.numbers == {
        "first": 0.3,
        "last": 0.2,
        "best": 0.1,
        "best_iteration": 20.0,
        "iterations": 30.0,
        "empty": 0.5,
    }
    assert "0.2000" in figure.caption
    assert has_colour(figure, PURPLE)
    assert not has_colour(evaluation_curve(curve([0.3, 0.1, 0.2])), PURPLE)


def test_the_schedule_is_marked_in_the_train_curve() -> None:
    values = [0.4] * 10 + [0.2] * 10 + [0.1] * 10
    growth = (GrowthStep(iteration=0, steps=1), GrowthStep(iteration=100, steps=3), GrowthStep(iteration=200, steps=5))
    figure = training_curve(curve(values), growth, background=0.5)
    stages = {name: value for name, value in figure.numbers.items() if name.startswith("stage")}
    assert stages == pytest.approx({"stage_1": 0.4, "stage_3": 0.2, "stage_5": 0.1})
    assert figure.numbers["of_background"] == pytest.approx(0.2)
    assert has_colour(figure, VERMILION)
    assert not has_colour(training_curve(curve(values)), VERMILION)


def test_a_stage_that_was_not_reached_is_left_out() -> None:
    growth = (GrowthStep(iteration=0, steps=1), GrowthStep(iteration=1000, steps=2))
    figure = training_curve(curve([0.4] * 20), growth, background=0.5)
    assert "stage_2" not in figure.numbers
    assert figure.numbers["of_background"] == pytest.approx(0.8)


def test_no_record_is_an_error() -> None:
    with pytest.raises(FigureError, match="no row"):
        evaluation_curve(curve([]))
