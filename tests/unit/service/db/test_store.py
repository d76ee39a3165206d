"""The store, on SQLite and on PostgreSQL alike."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import StatementError

from jobs.directory.records import Phase, Progress
from jobs.errors import ErrorClass
from service.clock import utc_now
from service.db.leases import Leases
from service.db.models import DeliveryRow, JobRow
from service.db.store import NewEvent, Store, new_job_id
from service.errors import (
    ConflictError,
    CursorError,
    JobNotFoundError,
    QuotaError,
    StaleRowError,
    StoreUnavailableError,
)
from service.job_state import AttemptOutcome, Desired, EventType, State
from tests.benchmarks.api import fill


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    made = Store(database_url)
    made.migrate()
    yield made
    made.close()


def a_job(**fields: object) -> JobRow:
    usual = {"id": new_job_id(), "name": "a", "kind": "train", "owner": "", "spec": {"name": "a"}, "priority": 0}
    return JobRow(**usual | {"state": State.QUEUED, "desired": Desired.RUN} | fields)


def add(store: Store, **fields: object) -> JobRow:
    return store.add(a_job(**fields))[0]


def admit(store: Store) -> JobRow:
    return store.admit(lambda _, queue: queue[:1])[0]


# --- rows


def test_a_job_comes_back_as_it_went_in(store: Store) -> None:
    before = utc_now()
    job = store.job(add(store, spec={"name": "a", "nested": {"x": [1, 2.5, None]}}, owner="ann").id)
    assert job.spec == {"name": "a", "nested": {"x": [1, 2.5, None]}}
    assert (job.state, job.desired, job.version, job.attempt, job.owner) == (State.QUEUED, Desired.RUN, 1, 0, "ann")
    assert before <= job.created_at <= utc_now()
    assert job.created_at.tzinfo == UTC
    assert job.progress is None


def test_an_unknown_job_is_not_found(store: Store) -> None:
    with pytest.raises(JobNotFoundError, match="job_x"):
        store.job("job_x")


def test_a_naive_time_is_refused(store: Store) -> None:
    job = add(store)
    with pytest.raises(StatementError, match="without a time zone"):
        store.transition(job, State.CANCELLED, started_at=datetime(2026, 1, 1))  # noqa: DTZ001  that is the point


def test_pages_are_newest_first_and_stable_while_jobs_come_in(store: Store) -> None:
    ids = [add(store).id for _ in range(7)]
    first, cursor = store.page(limit=3)
    add(store)
    second, cursor = store.page(cursor=cursor, limit=3)
    third, end = store.page(cursor=cursor, limit=3)
    assert [job.id for job in [*first, *second, *third]] == ids[::-1]
    assert end is None


def test_pages_can_be_of_some_states_and_of_one_owner(store: Store) -> None:
    ann, bob = add(store, owner="ann"), add(store, owner="bob")
    store.transition(ann, State.CANCELLED)
    assert [job.id for job in store.page((State.CANCELLED,))[0]] == [ann.id]
    assert [job.id for job in store.page((State.CANCELLED, State.QUEUED))[0]] == [bob.id, ann.id]
    assert [job.id for job in store.page(owner="bob")[0]] == [bob.id]
    assert store.counts() == {State.CANCELLED: 1, State.QUEUED: 1}


@pytest.mark.parametrize("cursor", ["", "x", "!!!!", "am9iczp4", "b3RoZXI6MQ", "é"])
def test_a_strange_cursor_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(CursorError):
        store.page(cursor=cursor)


def _plan(store: Store, chosen: tuple[State, ...], cursor: str) -> str:
    """How the database goes about the query of a page."""
    asked: list[tuple[str, Any]] = []
    # The page itself is read through this engine, so it is the real query that is explained.
    engine = store.database._engine

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    store.page(chosen, cursor=cursor)
    event.remove(engine, "before_cursor_execute", note)
    [(statement, parameters)] = [one for one in asked if one[0].startswith("SELECT jobs.")]
    explain = "EXPLAIN QUERY PLAN" if store.database.is_sqlite else "EXPLAIN"
    with engine.connect() as connection:
        return "\n".join(str(tuple(row)) for row in connection.exec_driver_sql(f"{explain} {statement}", parameters))


@pytest.mark.parametrize("chosen", [(), (State.PAUSED,), (State.FAILED, State.PAUSED), (State.LOST,)])
def test_a_page_of_a_long_list_is_found_by_an_index(store: Store, chosen: tuple[State, ...]) -> None:
    """How long it takes is shown by `python -m tests.benchmarks.load`."""
    fill(store, 3000)
    with store.database.write() as session:
        session.execute(text("ANALYZE"))
    cursor = store.page()[1]
    assert cursor is not None
    plan = _plan(store, chosen, cursor)
    assert "SEARCH jobs USING" in plan or "Index Scan" in plan, plan
    assert "SCAN jobs" not in plan, plan
    assert "Seq Scan" not in plan, plan


# --- adding


def test_the_same_key_and_body_give_the_same_job(store: Store) -> None:
    first, new = store.add(a_job(idempotency_key="k", body_hash="h"))
    again, new_again = store.add(a_job(idempotency_key="k", body_hash="h"))
    assert (first.id, new, new_again) == (again.id, True, False)
    other, _ = store.add(a_job(idempotency_key="k", body_hash="h", owner="bob"))
    assert other.id != first.id, "keys are the owner's own"
    with pytest.raises(ConflictError):
        store.add(a_job(idempotency_key="k", body_hash="another"))
    assert len(store.page()[0]) == 2


def test_a_refused_job_leaves_nothing(store: Store) -> None:
    add(store, owner="ann")

    def refuse(of_owner: int, of_all: int) -> None:
        assert (of_owner, of_all) == (0, 1)
        raise QuotaError("full")

    with pytest.raises(QuotaError):
        store.add(a_job(owner="bob"), refuse)
    assert len(store.page()[0]) == 1
    assert len(store.events()) == 1


def test_many_clients_at_once_are_each_served_once(store: Store) -> None:
    seen: list[str] = []

    def submit(client: int) -> None:
        seen.extend(store.add(a_job(idempotency_key=f"{number}", body_hash="h"))[0].id for number in range(5))

    threads = [threading.Thread(target=submit, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 40
    assert len(set(seen)) == len(store.page()[0]) == 5
    ids = [event.id for event in store.events()]
    assert ids == sorted(set(ids))


# --- transitions


def test_a_transition_and_its_event_are_written_together(store: Store) -> None:
    job = add(store)
    moved = store.transition(job, State.CANCELLED, "nobody wants it", desired=Desired.CANCEL)
    assert (moved.state, moved.version, moved.desired) == (State.CANCELLED, 2, Desired.CANCEL)
    assert moved.finished_at is not None
    data = store.events(job_id=job.id)[-1].data
    assert data == {"from": "QUEUED", "to": "CANCELLED", "reason": "nobody wants it", "attempt": 0}


def test_a_stale_row_changes_nothing(store: Store) -> None:
    job = add(store)
    store.set_desired(job, priority=3)
    with pytest.raises(StaleRowError):
        store.transition(job, State.CANCELLED)
    with pytest.raises(StaleRowError):
        store.set_desired(job, priority=4)
    now = store.job(job.id)
    assert (now.state, now.priority) == (State.QUEUED, 3)
    assert len(store.events()) == 1


def test_a_step_that_the_table_forbids_changes_nothing(store: Store) -> None:
    ended = store.transition(add(store), State.CANCELLED)
    for state in State:
        with pytest.raises(KeyError):
            store.transition(ended, state)
    assert store.job(ended.id).version == ended.version
    assert len(store.events()) == 2


def test_of_two_who_move_a_job_one_wins(store: Store) -> None:
    job = add(store)
    outcomes: list[str] = []

    def move(to: State) -> None:
        try:
            store.transition(job, to)
            outcomes.append("won")
        except StaleRowError:
            outcomes.append("lost")

    threads = [threading.Thread(target=move, args=(to,)) for to in (State.CANCELLED, State.PAUSED, State.FAILED)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost", "lost", "won"]
    assert len(store.events()) == 2


def test_events_are_in_order_and_outlive_their_job(store: Store) -> None:
    job, other = add(store), add(store)
    ended = store.transition(job, State.CANCELLED)
    store.delete(ended)
    events = store.events(job_id=job.id)
    assert [event.type for event in events] == ["transition", "transition", "deleted"]
    assert [event.id for event in store.events()] == sorted(event.id for event in store.events())
    assert [event.job_id for event in store.events(after_id=events[0].id)] == [other.id, job.id, job.id]
    with pytest.raises(JobNotFoundError):
        store.job(job.id)


def test_only_an_ended_job_is_deleted(store: Store) -> None:
    job = add(store)
    with pytest.raises(StaleRowError):
        store.delete(job)
    assert store.job(job.id).state == State.QUEUED


def test_an_attempt_is_written_with_the_admission_and_closed_with_its_end(store: Store) -> None:
    job = add(store)
    admitted = admit(store)
    attempt = store.attempt(job.id, 1)
    assert (admitted.attempt, attempt.submission_id, attempt.cluster_id) == (1, f"{job.id}-1", None)
    store.transition(
        admitted, State.LOST, outcome=AttemptOutcome.LOST, error_class=ErrorClass.INFRASTRUCTURE, error_message="gone"
    )
    attempt = store.attempt(job.id, 1)
    assert (attempt.outcome, attempt.error_class, attempt.error_message) == ("lost", "infrastructure", "gone")
    assert attempt.ended_at is not None


def test_the_queue_is_by_priority_and_then_by_age(store: Store) -> None:
    ids = [add(store, priority=priority).id for priority in (0, 5, 0, 5)]
    seen: list[str] = []
    store.admit(lambda _, queue: seen.extend(job.id for job in queue) or [])  # type: ignore[func-returns-value]
    assert seen == [ids[1], ids[3], ids[0], ids[2]]


def test_those_who_admit_at_once_see_each_others_admissions(store: Store) -> None:
    for _ in range(6):
        add(store)

    def one_place(placed: list[JobRow], queue: list[JobRow]) -> list[JobRow]:
        time.sleep(0.02)  # widens the gap between reading and writing
        return queue[: max(0, 1 - len(placed))]

    threads = [threading.Thread(target=store.admit, args=(one_place,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.counts()[State.SUBMITTING] == 1


def test_an_exception_in_between_undoes_everything(store: Store) -> None:
    add(store)

    def break_(placed: list[JobRow], queue: list[JobRow]) -> list[JobRow]:
        return [*queue, *queue]  # the second one has left the queue by then

    with pytest.raises(KeyError):
        store.admit(break_)
    assert store.counts() == {State.QUEUED: 1}
    assert len(store.events()) == 1


# --- leases


def test_a_row_belongs_to_one_process_until_its_lease_runs_out(database_url: str) -> None:
    now = utc_now()
    store = Store(database_url, clock=lambda: now)
    store.migrate()
    add(store)
    admit(store)
    first, second = Leases(store, "first"), Leases(store, "second")
    mine = first.claim(15, limit=10)
    assert len(mine) == 1
    assert second.claim(15, limit=10) == []
    now += timedelta(seconds=16)
    theirs = second.claim(15, limit=10)
    assert len(theirs) == 1
    with pytest.raises(StaleRowError):
        store.transition(mine[0], State.STARTING, leased=True)
    with pytest.raises(StaleRowError):
        store.update(mine[0], best_iteration=1)
    with pytest.raises(StaleRowError):
        store.update_attempt(mine[0], cluster_id="c")
    with pytest.raises(StaleRowError):
        store.reload(mine[0])
    first.release(mine[0])
    assert first.claim(15, limit=10) == [], "a lost lease can't be given back"
    assert store.transition(theirs[0], State.STARTING, leased=True).state == State.STARTING
    store.close()


def test_a_lease_that_is_renewed_stays(database_url: str) -> None:
    now = utc_now()
    store = Store(database_url, clock=lambda: now)
    store.migrate()
    add(store)
    admit(store)
    first, second = Leases(store, "first"), Leases(store, "second")
    [job] = first.claim(15, limit=10)
    for _ in range(5):
        now += timedelta(seconds=10)
        first.renew(15)
    assert second.claim(15, limit=10) == []
    first.release(job, look_again_in=30)
    assert second.claim(15, limit=10) == [], "it is not due"
    now += timedelta(seconds=31)
    assert len(second.claim(15, limit=10)) == 1
    store.close()


def test_a_lease_that_could_not_be_given_back_is_not_renewed_for_ever(database_url: str) -> None:
    class Away:
        def write(self) -> None:
            raise StoreUnavailableError("it was killed")

    now = utc_now()
    store = Store(database_url, clock=lambda: now)
    store.migrate()
    add(store)
    admit(store)
    first, second = Leases(store, "first"), Leases(store, "second")
    [job] = first.claim(15, limit=10)
    first._database = Away()  # type: ignore[assignment]
    with pytest.raises(StoreUnavailableError):
        first.release(job)
    first._database = store.database
    now += timedelta(seconds=10)
    first.renew(15)
    now += timedelta(seconds=6)
    assert len(second.claim(15, limit=10)) == 1
    store.close()


def test_those_who_claim_at_once_share_the_rows(store: Store) -> None:
    for _ in range(12):
        add(store)
    store.admit(lambda _, queue: queue)
    claimed: list[str] = []

    def claim(name: str) -> None:
        leases = Leases(store, name)
        while jobs := leases.claim(60, limit=1):
            claimed.extend(job.id for job in jobs)

    threads = [threading.Thread(target=claim, args=(f"process {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 12


def test_a_named_lease_has_one_holder(database_url: str) -> None:
    now = utc_now()
    store = Store(database_url, clock=lambda: now)
    store.migrate()
    first, second = Leases(store, "first"), Leases(store, "second")
    assert first.hold("sweep", 30)
    assert not second.hold("sweep", 30)
    assert first.hold("sweep", 30), "its holder prolongs it"
    now += timedelta(seconds=31)
    assert second.hold("sweep", 30)
    store.close()


def test_a_look_writes_its_events_with_what_it_saw(store: Store) -> None:
    add(store)
    admit(store)
    [job] = Leases(store, "me").claim(15, limit=1)
    progress = Progress(time=1.5, last_progress_at=1.0, phase=Phase.TRAINING, iteration=3)
    noted = store.update(job, [NewEvent(EventType.PROGRESS, {"iteration": 3})], progress=progress)
    assert (noted.progress, noted.version, noted.state) == (progress, job.version, job.state)
    assert store.events()[-1].data == {"iteration": 3}


def test_transitions_fill_the_outbox(database_url: str) -> None:
    store = Store(database_url, webhook_urls=("http://a", "http://b"))
    store.migrate()
    store.transition(add(store), State.CANCELLED)
    with store.database.read() as session:
        assert session.scalar(select(func.count()).select_from(DeliveryRow)) == 4
    store.close()
