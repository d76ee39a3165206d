"""Scores by the Bradley-Terry model, against values worked out by hand and trials whose merit is known."""

import math
from random import Random

import pytest

from jobs.directory.records import TrialRow, TrialState
from jobs.preferences.answers import Answer
from jobs.preferences.pairs import pair_number
from jobs.preferences.scores import bradley_terry, with_scores


def answer(one: int, other: int, better: int | None) -> Answer:
    return Answer(pair=pair_number(one, other), better=better, time=0.0)


def test_one_answer_has_the_score_of_its_prior() -> None:
    """The most probable difference d solves d / 2 = 1 / (1 + exp(d)), by symmetry."""
    scores = bradley_terry([0, 1, 2], [answer(0, 1, 1)])
    assert scores[1] == pytest.approx(-scores[0], abs=1e-5)
    assert scores[2] == 0
    assert scores[1] == pytest.approx(1 / (1 + math.exp(2 * scores[1])), abs=1e-5)


def test_equally_good_trials_have_one_score() -> None:
    assert bradley_terry([0, 1], [answer(0, 1, None)]) == {0: 0, 1: 0}
    scores = bradley_terry([0, 1, 2], [answer(0, 1, 0), answer(0, 2, None)])
    assert scores[1] < scores[2] < scores[0]


def test_the_order_is_that_of_the_trials_merit() -> None:
    random = Random(0)
    merit = {trial: trial / 3 for trial in range(12)}
    pairs = [(one, other) for one in merit for other in merit if one < other]
    answers = []
    for one, other in pairs:
        chance = 1 / (1 + math.exp(merit[one] - merit[other]))
        answers.append(answer(one, other, other if random.random() < chance else one))
    scores = bradley_terry(merit, answers)
    ranks = sorted(scores, key=lambda trial: scores[trial])
    assert sum(abs(rank - trial) for rank, trial in enumerate(ranks)) <= 18
    assert set(ranks[-3:]) <= {8, 9, 10, 11}
    # As at the best point, what is won and what is expected to be won differ by the score itself.
    for trial, score in scores.items():
        met = [(one, other) for one, other in pairs if trial in (one, other)]
        expected = sum(1 / (1 + math.exp(scores[one + other - trial] - score)) for one, other in met)
        won = sum(given.better == trial for given in answers)
        assert won - expected == pytest.approx(score, abs=1e-4)


def test_rows_get_the_scores_of_what_was_compared() -> None:
    def row(trial: int, state: TrialState = TrialState.SUCCEEDED, score: float | None = None) -> TrialRow:
        metrics = {"val/mse": 0.1} | ({} if score is None else {"human/score": score})
        return TrialRow(trial=trial, state=state, params={}, metrics=metrics)

    rows = {0: row(0), 1: row(1), 2: row(2, score=5.0), 3: row(3, TrialState.FAILED)}
    answers = {one.pair: one for one in (answer(0, 1, 0), answer(0, 3, 3))}
    found = with_scores(rows, answers)
    assert found[0].metrics["human/score"] > 0 > found[1].metrics["human/score"]
    assert found[0].metrics["val/mse"] == 0.1
    # Neither an earlier score, nor that of a trial without a model.
    assert "human/score" not in found[2].metrics
    assert "human/score" not in found[3].metrics
    assert rows[2].metrics["human/score"] == 5.0
    alone = with_scores({0: row(0), 1: row(1, TrialState.FAILED)}, {})
    assert [one.metrics.get("human/score") for one in alone.values()] == [0.0, None]
