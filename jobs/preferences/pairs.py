"""Pairs of a search's trials: their numbers, which are worth an answer next, and how many answers are missing.

The number of a pair follows from its two trials, so nobody has to keep which pairs there are.
"""

import math
from collections.abc import Collection, Mapping

from jobs.search.settings import Sampler
from jobs.specs import TuneSpec

__all__ = ["first_trials", "missing_answers", "most_pairs", "next_pairs", "pair_number", "trials_of"]

_FEWEST_ANSWERS = 2
"""Each trial is compared so often before only the best ones are."""

_CANDIDATES = 10
"""Trials whose pairs are looked at for the next ones: of many trials there are millions of pairs."""


def most_pairs(trials: int) -> int:
    """How many pairs so many trials have."""
    return trials * (trials - 1) // 2


def pair_number(one: int, other: int) -> int:
    """The number of a pair: 0 for trials 0 and 1, then 0 and 2, 1 and 2, 0 and 3, ...

    Raises:
        ValueError: it is one trial twice.
    """
    low, high = sorted((one, other))
    if low == high:
        raise ValueError("a pair has two trials")
    return most_pairs(high) + low


def trials_of(pair: int) -> tuple[int, int]:
    """The trials of a pair, the lower number first."""
    high = (1 + math.isqrt(1 + 8 * pair)) // 2
    return pair - most_pairs(high), high


def next_pairs(scores: Mapping[int, float], answered: Collection[int], limit: int) -> list[int]:
    """Pairs that have no answer, those first that say most.

    At first each trial is compared twice, with one that is about as good as far as is known; then the best are compared
    with each other.

    Args:
        scores: of the trials that have a model, see `jobs.preferences.scores`.
        answered: pairs that have an answer.
        limit: at most so many.
    """
    counts = dict.fromkeys(scores, 0)
    for pair in answered:
        for trial in trials_of(pair):
            if trial in counts:
                counts[trial] += 1
    ready = {trial: min(count, _FEWEST_ANSWERS) for trial, count in counts.items()}
    ranked = sorted(scores, key=lambda trial: (ready[trial], -scores[trial], trial))
    open_pairs = {
        number
        for one in ranked[: max(_CANDIDATES, limit)]
        for other in ranked
        if one != other and (number := pair_number(one, other)) not in answered
    }
    if not open_pairs:
        # The candidates have been compared with everybody.
        open_pairs = _all_open(ranked, answered, limit)

    def cost(pair: int) -> tuple[float, ...]:
        one, other = trials_of(pair)
        fewest, distance = min(ready[one], ready[other]), abs(scores[one] - scores[other])
        if fewest < _FEWEST_ANSWERS:
            return fewest, distance, ready[one] + ready[other], pair
        return fewest, -min(scores[one], scores[other]), distance, pair

    return sorted(open_pairs, key=cost)[:limit]


def _all_open(trials: list[int], answered: Collection[int], limit: int) -> set[int]:
    """Any pairs without an answer, as many as are asked for."""
    found: set[int] = set()
    for at, one in enumerate(trials):
        for other in trials[at + 1 :]:
            if (number := pair_number(one, other)) not in answered:
                found.add(number)
                if len(found) >= limit:
                    return found
    return found


def first_trials(spec: TuneSpec) -> int:
    """Trials that are drawn before the sampler asks for answers."""
    return min(10, max(2, spec.most_trials // 3))


def missing_answers(spec: TuneSpec, proposed: int, with_model: int, answered: int) -> int:
    """How many comparisons a search by eye waits for before it proposes its next trial, or ends.

    They are spread evenly over the trials after the first ones, so that the sampler learns while trials are left. A
    sampler that learns nothing waits at the end alone.

    Args:
        spec: the search.
        proposed: trials so far.
        with_model: those of them that have ended with a model, and can be compared.
        answered: pairs that have an answer.
    """
    if not spec.is_by_eye:
        return 0
    total, first = spec.most_trials, first_trials(spec)
    if proposed >= total:
        needed = spec.most_comparisons
    elif proposed < first or spec.sampler is not Sampler.TPE:
        needed = 0
    else:
        needed = math.ceil(spec.most_comparisons * (proposed - first + 1) / (total - first + 1))
    return max(0, min(needed, most_pairs(with_model)) - answered)
