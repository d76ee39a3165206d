from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobs.directory.records import Phase, Progress
from jobs.interfaces import Capacity, NodeCapacity
from service.db.models import JobRow
from service.job_state import Desired, State
from service.scheduling.admission import Plan, plan
from service.settings import ReconcilerSettings

NUMBERS = count()
FOUR = Capacity((NodeCapacity(cpus=4, gpus=1),))


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(
    name: str,
    workers: Any = 1,
    owner: str = "",
    gpus: float = 0,
    tune: int = 0,
    *,
    waited: float = 0,
    priority: int = 0,
    state: State = State.QUEUED,
    eta: float | None = None,
) -> JobRow:
    spec: dict[str, Any] = {"name": "x", "scaling": {"workers": workers, "gpus_per_worker": gpus}}
    if tune:
        spec = {"kind": "tune", "name": "x", "base": spec, "space": {"bottleneck": [8]}, "trials": tune}
    progress = None
    if eta is not None:
        progress = Progress(time=0, last_progress_at=0, phase=Phase.TRAINING, eta_seconds=eta)
    return JobRow(
        id=name,
        number=next(NUMBERS),
        owner=owner,
        spec=spec,
        state=state,
        desired=Desired.RUN,
        queued_at=NOW - timedelta(seconds=waited),
        priority=priority,
        progress=progress,
    )


def planned(placed: list[JobRow], queue: list[JobRow], capacity: Capacity = FOUR, **settings: Any) -> Plan:
    return plan(placed, queue, capacity, ReconcilerSettings(**settings), NOW)


def names(placed: list[JobRow], queue: list[JobRow], capacity: Capacity = FOUR, **settings: Any) -> str:
    return "".join(row.id for row in planned(placed, queue, capacity, **settings).admitted)


def test_as_many_as_there_is_room_for() -> None:
    assert names([], [job(name) for name in "abcdef"]) == "abcd"
    assert names([job("x", 3)], [job(name) for name in "ab"]) == "a"
    assert names([], []) == ""


def test_a_large_job_is_not_overtaken_for_ever() -> None:
    queue = [job("a", 3, waited=600), job("b", 1), job("c", 1)]
    assert names([job("x", 2)], queue) == ""
    assert names([job("x", 2)], queue, backfill_for=601) == "bc"
    assert names([job("x", 2)], [job("a", 3), job("b", 1)], backfill_for=0) == ""


def test_small_jobs_that_pass_a_large_one_take_what_is_free_and_no_more() -> None:
    assert names([job("x", 2)], [job("a", 3, waited=599), job("b", 2), job("c", 1)]) == "b"


def test_what_a_job_waits_for_is_told() -> None:
    found = planned(
        [job("x", 3, owner="ann", eta=50)],
        [job("a", 3, waited=900), job("b"), job("c", owner="ann"), job("d", 5), job("e", 1, gpus=1)],
        max_running_per_owner=1,
    ).places
    assert [found[name].position for name in "abdec"] == [1, 2, 3, 4, 5], "ann has one that runs, the other has none"
    assert found["a"].missing == "3 workers with 3 CPUs, of which 1 are free"
    assert found["b"].missing == "its turn: job a before it waits for room, and may not be passed any more"
    assert found["c"].missing == "its turn: 1 jobs of its owner run, as many as may at once"
    assert found["d"].missing == "a machine: it asks for 5 workers; the cluster has room for 4 of this size"
    full = planned([job("x", gpus=1)], [job("a", 1, gpus=1)]).places["a"]
    assert full.missing == "1 worker with 1 CPUs, of which 3 are free and 1 GPUs, of which 0 are free"
    many = planned([job("x"), job("y")], [job("a")], max_concurrent_jobs=2).places["a"]
    assert many.missing == "its turn: 2 jobs run, as many as may at once"


def test_when_a_turn_comes_is_guessed_from_what_running_jobs_say() -> None:
    placed = [job("x", 2, eta=50), job("y", 1, eta=10), job("z", 1)]
    found = planned(placed, [job("a", 1), job("b", 2), job("c", 2)]).places
    assert found["a"].starts_in == 10
    assert found["b"].starts_in == 50, "its room and that of the job before it"
    assert found["c"].starts_in is None, "z does not say when it ends"


def running(name: str, workers: int, priority: int) -> JobRow:
    return job(name, workers, priority=priority, state=State.RUNNING)


def preempted(placed: list[JobRow], queue: list[JobRow], **settings: Any) -> str:
    found = planned(placed, queue, **{"preemption": True, **settings}).preemptions
    assert all(one.by in queue for one in found)
    return "".join(one.job.id for one in found)


def test_a_job_of_higher_priority_makes_the_lowest_and_newest_leave_and_no_more() -> None:
    placed = [running("x", 2, 1), running("y", 1, 0), running("z", 1, 0)]
    assert preempted(placed, [job("a", 1, priority=5)]) == "z"
    assert preempted(placed, [job("a", 2, priority=5)]) == "zy"
    assert preempted(placed, [job("a", 3, priority=5)]) == "zyx"
    assert preempted(placed, [job("a", 3, priority=1)]) == "", "not enough of lower priority"
    assert preempted(placed, [job("a", 1, priority=0)]) == "", "not of the same"
    assert preempted(placed, [job("a", 1, priority=5)], preemption=False) == ""


def test_nobody_leaves_where_that_is_under_way_or_there_is_room() -> None:
    leaving = job("z", 2, state=State.PAUSING)
    assert preempted([running("x", 2, 0), leaving], [job("a", 2, priority=5)]) == ""
    assert preempted([running("x", 2, 0)], [job("a", 2, priority=5)]) == ""
    starting = job("x", 4, state=State.STARTING)
    assert preempted([starting], [job("a", 2, priority=5)]) == "", "it has no checkpoint to leave with"


def test_what_is_made_free_for_a_job_is_not_given_to_another() -> None:
    placed = [running("x", 2, 0), job("z", 1, state=State.PAUSING)]
    assert names(placed, [job("a", 2, priority=5), job("b", 1)], preemption=True) == ""
    assert names([running("x", 3, 0)], [job("a", 2, priority=5), job("b", 1)], preemption=True) == ""


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
    found = plan([job(f"p{at}", workers) for at, workers in enumerate(placed)], waiting, capacity, settings, NOW)
    chosen = found.admitted
    assert {row.id for row in chosen}.isdisjoint(found.places)
    assert len(chosen) + len(found.places) == len(waiting)
    assert len({row.id for row in chosen}) == len(chosen), "each once"
    for owner in "xyz":
        own = [row for row in waiting if row.owner == owner]
        assert [row for row in chosen if row.owner == owner] == [row for row in own if row in chosen], "in order"
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
    placed, queue = [job("1", 2, owner="cy")], [job("a", 3, owner="ann"), job("x", owner="bob")]
    assert names(placed, queue, backfill_for=0) == ""
    assert names(placed, queue) == "x", "until it has waited for long, what is free may be used"


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
    settings = ReconcilerSettings(max_concurrent_jobs=most, max_running_per_owner=of_each, backfill_for=0)
    has, waits = Counter[str](), Counter(owner for owner, _ in jobs)
    for chosen in plan([], queue, Capacity((NodeCapacity(cpus=16, gpus=0),)), settings, NOW).admitted:
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
        running = plan([], queue, FOUR, settings, NOW).admitted
        assert running
        queue = [one for one in queue if one not in running]
        ended.update(one.owner for one in running)
        assert abs(ended["ann"] - ended["bob"]) <= 1
    assert ended == {"ann": 60, "bob": 60}
