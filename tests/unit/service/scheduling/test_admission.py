from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobs.interfaces import Capacity, NodeCapacity
from service.db.models import JobRow
from service.job_state import Desired, State
from service.scheduling.admission import choose
from service.settings import ReconcilerSettings

FOUR = Capacity((NodeCapacity(cpus=4, gpus=1),))


def job(name: str, workers: Any = 1, owner: str = "", gpus: float = 0, tune: int = 0) -> JobRow:
    spec: dict[str, Any] = {"name": "x", "scaling": {"workers": workers, "gpus_per_worker": gpus}}
    if tune:
        spec = {"kind": "tune", "name": "x", "base": spec, "space": {"bottleneck": [8]}, "trials": tune}
    return JobRow(id=name, owner=owner, spec=spec, state=State.QUEUED, desired=Desired.RUN)


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
