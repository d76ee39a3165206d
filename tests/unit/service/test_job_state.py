import pytest

from service.job_state import ACTIVE, ENDED, TRANSITIONS, WAITING, State, is_legal, reason_for

OWN = frozenset(State) - {State.UNKNOWN}
"""States of this release."""


def test_every_state_is_in_the_table_and_in_one_group() -> None:
    assert set(TRANSITIONS) == set(State)
    assert OWN == ACTIVE | WAITING | ENDED
    assert not ACTIVE & WAITING
    assert not (ACTIVE | WAITING) & ENDED


@pytest.mark.parametrize("state", sorted(ENDED))
def test_nothing_follows_an_end(state: State) -> None:
    assert state.is_terminal
    assert not TRANSITIONS[state]


@pytest.mark.parametrize("state", sorted(OWN - ENDED))
def test_every_live_state_can_reach_every_end_but_never_itself(state: State) -> None:
    reached: set[State] = set()
    frontier = {state}
    while frontier:
        frontier = {after for before in frontier for after in TRANSITIONS[before]} - reached
        reached |= frontier
    assert state not in TRANSITIONS[state]
    # A cancelled job does not succeed any more; a stop at the time limit is the one way from there to a failure.
    assert reached >= ({State.CANCELLED, State.FAILED} if state == State.CANCELLING else ENDED)


def test_every_step_has_a_reason() -> None:
    for before, steps in TRANSITIONS.items():
        for after, reason in steps.items():
            assert is_legal(before, after)
            assert reason_for(before, after) == reason != ""


def test_a_state_of_another_release_is_left_alone() -> None:
    """C1: nothing leads into it or out of it."""
    assert not TRANSITIONS[State.UNKNOWN]
    assert not State.UNKNOWN.is_terminal
    assert not any(State.UNKNOWN in steps for steps in TRANSITIONS.values())


def test_a_step_that_is_not_in_the_table_is_illegal() -> None:
    assert not is_legal(State.QUEUED, State.RUNNING)
    with pytest.raises(KeyError):
        reason_for(State.SUCCEEDED, State.QUEUED)
