"""Numbers of pairs, which pairs come next, and how many answers a search waits for."""

import itertools
from typing import Any

import pytest

from jobs.preferences.pairs import first_trials, missing_answers, most_pairs, next_pairs, pair_number, trials_of
from jobs.specs import TuneSpec
from tests.tiny import TINY


def by_eye(**fields: Any) -> TuneSpec:
    space = {"alpha_mseot": {"low": 0.1, "high": 10}}
    plain = {"kind": "tune", "name": "s", "base": TINY, "space": space, "objective": "human", "trials": 12}
    return TuneSpec.model_validate(plain | fields)


def test_a_pairs_number_follows_from_its_trials() -> None:
    numbers = [pair_number(one, other) for one, other in itertools.combinations(range(60), 2)]
    assert sorted(numbers) == list(range(most_pairs(60)))
    assert all(
        trials_of(pair_number(one, other)) == (one, other) for one, other in itertools.combinations(range(60), 2)
    )
    assert pair_number(7, 3) == pair_number(3, 7) == 24
    # Where floating point would be off by one.
    assert trials_of(most_pairs(10_000) - 1) == (9_998, 9_999)
    with pytest.raises(ValueError, match="two trials"):
        pair_number(3, 3)


def test_each_trial_is_compared_twice_before_the_best_are() -> None:
    scores: dict[int, float] = dict.fromkeys(range(6), 0.0)
    answered: set[int] = set()
    while True:
        (pair,) = next_pairs(scores, answered, 1)
        counts = [sum(trial in trials_of(other) for other in answered) for trial in scores]
        if min(counts) >= 2:
            break
        assert min(counts[trial] for trial in trials_of(pair)) == min(counts)
        answered.add(pair)
    assert len(answered) <= 8
    scores |= {2: 3.0, 5: 2.0, 1: 1.0}
    best = [pair for pair in (pair_number(2, 5), pair_number(1, 5), pair_number(1, 2)) if pair not in answered]
    found = next_pairs(scores, answered, 15)
    assert found[: len(best)] == best
    assert set(found) == set(range(15)) - answered


def test_of_equal_counts_the_nearest_scores_are_compared() -> None:
    assert next_pairs({0: 1.0, 1: -1.0, 2: 0.9}, (), 1) == [pair_number(0, 2)]
    assert next_pairs({}, (), 3) == next_pairs({4: 0.0}, (), 3) == []


def test_all_pairs_are_offered_in_the_end() -> None:
    """Also those of trials that are not among the candidates, once these have met everybody."""
    scores = {trial: -float(trial) for trial in range(14)}
    answered: set[int] = set()
    while found := next_pairs(scores, answered, 2):
        answered.update(found)
    assert answered == set(range(most_pairs(14)))


def test_the_next_of_a_long_search_are_found_quickly() -> None:
    scores = {trial: trial % 7 / 7 for trial in range(10_000)}
    assert len(next_pairs(scores, range(500), 3)) == 3


def test_answers_are_asked_for_evenly() -> None:
    spec = by_eye(comparisons=18)
    assert first_trials(spec) == 4
    waits = [missing_answers(spec, proposed, proposed, 0) for proposed in range(13)]
    assert waits == [0, 0, 0, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert missing_answers(spec, 12, 12, 17) == 1
    assert missing_answers(spec, 12, 12, 18) == 0
    assert missing_answers(spec, 12, 12, 30) == 0


def test_no_more_answers_are_asked_for_than_there_are_pairs() -> None:
    spec = by_eye(comparisons=18)
    assert missing_answers(spec, 12, 3, 0) == 3
    assert [missing_answers(spec, 12, with_model, 0) for with_model in (0, 1)] == [0, 0]
    assert by_eye(trials=3, comparisons=9).most_comparisons == 3
    assert (by_eye().most_comparisons, by_eye(trials=4).most_comparisons) == (24, 6)


def test_who_learns_nothing_from_answers_waits_at_the_end_alone() -> None:
    spec = by_eye(sampler="random", comparisons=18)
    assert missing_answers(spec, 11, 11, 0) == 0
    assert missing_answers(spec, 12, 12, 0) == 18
    assert by_eye(objective="metrics").most_comparisons == 0
    assert missing_answers(by_eye(objective="metrics"), 12, 12, 0) == 0
