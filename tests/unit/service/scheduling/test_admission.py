from collections import Counter
from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobs.interfaces import Capacity, NodeCapacity
from service.db.models import JobRow
from service.job_state import Desired, State
from service.scheduling.admission import choose
from service.settings import ReconcilerSettings

NUMBERS = count()
FOUR = Capacity((NodeCapacity(cpus=4, gpus=1),))


def job(name: str, workers: Any = 1, owner: str = "", gpus: float = 0, tune: int = 0, priority: int = 0) -> JobRow:
    spec: dict[str, Any] = {"name": "x", "scaling": {"workers": workers, "gpus_per_worker": gpus}}
    if tune:
        spec = {"kind": "tune", "name": "x", "base": spec, "space": {"bottleneck": [8]}, "trials": tune}
    return JobRow(
        id=name,
        number=next(NUMBERS),
        owner=owner,
        spec=spec,
        state=State.QUEUED,
        desired=Desired.RUN,
        priority=priority,
    )


def names(placed: list[JobRow], queue: list[JobRow], capacity: Capacity = FOUR, **settings: Any) -> str:
    return "".join(row.id for row in choose(placed, queue, capacity, ReconcilerSettings(**settings)))


def test_as_many_as_there_is_room_for() -> None:
    assert names([], [job(name) for name in "abcdef"]) == "abcd"
    assert names([job("x", 3)], [job(name) for name in "ab"]) == "a"
    assert names([], []) == ""


def test_a_large_job_is_not_overtaken() -> None:
    assert names([job("x", 2)], [job("a", 3), job("b", 1)]) == ""


def test_a_job_that_could_not_run_even_alone_is_stepped_over() -> None:
    assert names([], [job("a", 5), job("b", 1)]) == "b"


def test_an_owner_at_the_limit_is_stepped_over() -> None:
    queue = [job("a", owner="ann"), job("b", owner="ann"), job("c", owner="bob")]
    assert names([], queue, max_running_per_owner=1) == "ac"


def test_no_more_at_once_than_allowed() -> None:
    assert names([job("x")], [job(name) for name in "abc"], max_concurrent_jobs=3) == "ab"


def test_gpus_are_counted_too() -> None:
    assert names([], [job("a", gpus=1), job("b", gpus=1)]) == "a"
    assert names([], [job("a", gpus=0.5), job("b", gpus=0.5)]) == "ab"


def test_a_search_starts_with_room_for_one_trial_and_takes_what_there_is() -> None:
    assert names([job("x", 3)], [job("a", tune=8)]) == "a"
    assert names([], [job("a", tune=8), job("b")]) == "a"
    assert names([], [job("a", tune=2), job("b"), job("c", 2)]) == "ab"


def test_an_elastic_job_starts_with_the_fewest_it_can_do_with() -> None:
    assert names([job("x", 3)], [job("a", {"min": 1, "max": 4})]) == "a"
    assert names([], [job("a", {"min": 1, "max": 4}), job("b")]) == "a"


@given(
    placed=st.lists(st.integers(1, 4), max_size=3),
    queue=st.lists(st.tuples(st.integers(1, 6), st.sampled_from("xyz")), max_size=8),
    nodes=st.lists(st.integers(1, 8), min_size=1, max_size=3),
)
def test_never_more_than_fits(placed: list[int], queue: list[tuple[int, str]], nodes: list[int]) -> None:
    capacity = Capacity(tuple(NodeCapacity(cpus=cpus, gpus=0) for cpus in nodes))
    waiting = [job(str(number), workers, owner) for number, (workers, owner) in enumerate(queue)]
    settings = ReconcilerSettings(max_concurrent_jobs=3, max_running_per_owner=2)
    chosen = choose([job("p", workers) for workers in placed], waiting, capacity, settings)
    assert chosen == [row for row in waiting if row in chosen], "in order, each once"
    free = max(0, sum(nodes) - sum(placed))
    assert sum(row.spec["scaling"]["workers"] for row in chosen) <= free
    assert len(placed) + len(chosen) <= max(3, len(placed))
    for owner in "xyz":
        assert sum(row.owner == owner for row in chosen) <= 2


def test_the_owner_with_fewest_jobs_on_the_cluster_is_next() -> None:
    queue = [job(name, owner="ann") for name in "abcd"] + [job(name, owner="bob") for name in "xyz"]
    assert names([], queue) == "axby", "in turn, and the older job first"
    assert names([job("1", owner="ann")], queue, max_concurrent_jobs=4) == "xay"
    assert names([job("1", owner="ann"), job("2", owner="ann")], queue) == "xy"
    assert names([], [job("a", owner="ann"), job("b", owner="ann")]) == "ab", "an owner's own jobs in their order"


def test_priority_goes_before_fairness() -> None:
    queue = [job(name, owner="ann", priority=1) for name in "ab"] + [job(name, owner="bob") for name in "xy"]
    assert names([], queue) == "abxy"


def test_a_large_job_that_is_next_holds_up_other_owners_too() -> None:
    assert names([job("1", 2, owner="cy")], [job("a", 3, owner="ann"), job("x", owner="bob")]) == ""


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), max_size=30),
    st.integers(1, 8),
    st.integers(1, 8),
)
def test_no_owner_waits_while_one_with_more_jobs_on_the_cluster_gets_another(
    jobs: list[tuple[str, int]], most: int, of_each: int
) -> None:
    """In order of their choice: whoever is chosen has no more than any other owner who waits and is below the quota."""
    queue = [job(str(number), owner=owner, workers=workers) for number, (owner, workers) in enumerate(jobs)]
    settings = ReconcilerSettings(max_concurrent_jobs=most, max_running_per_owner=of_each)
    has, waits = Counter[str](), Counter(owner for owner, _ in jobs)
    for chosen in choose([], queue, Capacity((NodeCapacity(cpus=16, gpus=0),)), settings):
        assert all(has[chosen.owner] <= has[other] for other in waits if waits[other] and has[other] < of_each)
        has[chosen.owner] += 1
        waits[chosen.owner] -= 1


def test_two_owners_who_flood_the_queue_end_at_the_same_pace() -> None:
    """One came first with all of their jobs; both have quotas, and each job takes a round."""
    queue = [job(f"a{number}", owner="ann") for number in range(60)] + [
        job(f"b{number}", owner="bob") for number in range(60)
    ]
    settings = ReconcilerSettings(max_concurrent_jobs=4, max_running_per_owner=3)
    ended = Counter[str]()
    while queue:
        running = choose([], queue, FOUR, settings)
        assert running
        queue = [one for one in queue if one not in running]
        ended.update(one.owner for one in running)
        assert abs(ended["ann"] - ended["bob"]) <= 1
    assert ended == {"ann": 60, "bob": 60}
