"""Waits between tries."""

import pytest

from service.backoff import exponential_backoff


def test_the_wait_doubles_with_each_failure_up_to_the_longest() -> None:
    waits = [exponential_backoff(failures, first=5.0, longest=30.0) for failures in range(1, 6)]
    assert waits == [5.0, 10.0, 20.0, 30.0, 30.0]


def test_a_wait_stays_finite_however_often_something_failed() -> None:
    assert exponential_backoff(1_000_000, first=2.0, longest=300.0) == 300.0


def test_a_first_wait_of_nothing_stays_nothing() -> None:
    assert exponential_backoff(50, first=0.0, longest=300.0, jitter=0.25) == 0.0


@pytest.mark.parametrize(("failures", "whole"), [(1, 4.0), (2, 8.0), (10, 10.0)])
def test_jitter_spreads_the_wait_to_both_sides_and_no_further(failures: int, whole: float) -> None:
    waits = [exponential_backoff(failures, first=4.0, longest=10.0, jitter=0.25) for _ in range(2000)]
    assert 0.75 * whole <= min(waits) < 0.77 * whole
    assert 1.23 * whole < max(waits) <= 1.25 * whole


@pytest.mark.parametrize("failures", [0, -1])
def test_without_a_failure_there_is_no_wait(failures: int) -> None:
    with pytest.raises(ValueError, match="at least one failure"):
        exponential_backoff(failures, first=1.0, longest=2.0)


@pytest.mark.parametrize("jitter", [-0.1, 1.1, 25])
def test_a_jitter_that_is_no_share_is_refused(jitter: float) -> None:
    with pytest.raises(ValueError, match="share"):
        exponential_backoff(1, first=1.0, longest=2.0, jitter=jitter)
