"""Rows and files of another release, damaged or hostile: each concerns its own job alone, and all others go on."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from jobs.directory.stored_specs import SPEC_VERSION
from jobs.interfaces import Capacity, NodeCapacity
from seqae.errors import Error
from service.errors import ConflictError
from service.job_state import State
from tests.control_plane import ControlPlane

ROOM = Capacity((NodeCapacity(cpus=64, gpus=0),))

NUMBERS = st.one_of(st.integers(), st.floats(), st.just(10**400), st.just(5e-324), st.just(-1), st.booleans())
PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), NUMBERS, st.text(max_size=5), st.just("\ud800"), st.just("\0")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
NO_JSON = st.sampled_from(["", "{", "nul", '{"a": ', "NaN", "[" * 5000, "\x00", b"\xff\xfe{"])


def objects(*fields: str) -> st.SearchStrategy[Any]:
    """Objects whose fields have the right names and whatever values."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(fields, PLAIN))


def documents(*fields: str) -> st.SearchStrategy[Any]:
    """What may be in a JSON column."""
    return st.one_of(NO_JSON, PLAIN.map(json.dumps), objects(*fields).map(json.dumps))


SPECS = st.one_of(
    documents("kind", "name", "scaling", "schedule", "data", "model", "seed"),
    st.builds(lambda name, value: json.dumps({"name": "a", name: value}), st.text(max_size=8), PLAIN),
    st.builds(
        lambda cpus, gpus: json.dumps({"name": "a", "scaling": {"cpus_per_worker": cpus, "gpus_per_worker": gpus}}),
        NUMBERS,
        NUMBERS,
    ),
)
WORDS = st.sampled_from(["HIBERNATING", "", "queued", "RUN", "deleted"])
TIMES = st.one_of(st.sampled_from(["", "yesterday", "9999-12-31 23:59:59.999999", "0001-01-01"]), st.integers(0, 9))
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "spec": SPECS,
    "spec_version": st.integers(-5, 9),
    "state": WORDS,
    "desired": WORDS,
    "progress": documents("time", "moved_at", "phase", "iteration", "iterations", "trials", "workers"),
    "event_cursor": documents("rows", "frame", "notes", "progress", "at"),
    "metrics": documents("mse", "test/mse"),
    "waiting": documents("for", "missing", "since", "failures"),
    "not_before": TIMES,
    "lease_expires": TIMES,
    "queued_at": TIMES,
    "state_since": TIMES,
    "last_seen_at": TIMES,
    "attempt": st.sampled_from([-1, 0, 7, "x"]),
    "retries": st.sampled_from([-1, 2**62, "x"]),
    "error_class": st.sampled_from(["of tomorrow", ""]),
}
FILES = {
    "progress.json": documents("time", "moved_at", "phase", "iteration", "of_tomorrow"),
    "result.json": documents("outcome", "error", "metrics", "checkpoint", "of_tomorrow"),
    "metrics.jsonl": documents("time", "step", "metrics"),
    "notes.jsonl": documents("time", "kind", "text"),
    "trials.jsonl": documents("trial", "state", "params"),
}


def damage(plane: ControlPlane, job_id: str, **columns: Any) -> None:
    """Writes into a job's row what no release of ours would."""
    with plane.store.database.write() as session:
        for name, value in columns.items():
            session.execute(text(f"UPDATE jobs SET {name} = :value WHERE id = :id"), {"value": value, "id": job_id})


@contextmanager
def a_plane(make_plane: Callable[[Path], ControlPlane]) -> Iterator[ControlPlane]:
    """A control plane with room for all, in a folder of its own."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="seqae-rows-", dir=memory if memory.is_dir() else None))
    plane = make_plane(root)
    plane.launcher.set_capacity(ROOM)
    try:
        yield plane
    finally:
        plane.store.close()
        shutil.rmtree(root)


def everybody_else_goes_on(plane: ControlPlane, innocent: str) -> None:
    """Listing, events, admission, watching, finalizing and the sweep, with whatever is in the other rows."""
    page = plane.service.list(limit=200)
    json.dumps(json.loads(page.model_dump_json()), allow_nan=False)
    assert innocent in {job.id for job in page.items}
    for job in page.items:
        assert plane.service.get(job.id) == job
        plane.service.attempts(job.id)
    plane.service.validate(plane.service.get(innocent).spec)  # type: ignore[arg-type]  # it can be read
    plane.until(innocent, State.STARTING, ticks=5)
    plane.driver(innocent).beat(1)
    plane.until(innocent, State.RUNNING, ticks=5)
    plane.reconciler.sweep()
    plane.driver(innocent).finish()
    plane.until(innocent, State.SUCCEEDED, ticks=10)
    plane.service.list(limit=200).model_dump_json()
    [event.model_dump_json() for event in plane.service.events(limit=500)]


quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(data=st.data(), names=st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=3, unique=True))
def test_no_row_stops_the_others(
    make_plane: Callable[[Path], ControlPlane], data: st.DataObject, names: list[str]
) -> None:
    """C1, C2: a spec of the future, unknown states, evil values in columns."""
    with a_plane(make_plane) as plane:
        waits, (runs, driver) = plane.submit(), plane.running()
        innocent = plane.submit()
        driver.finish(leave=False)
        values = {name: data.draw(COLUMNS[name], label=name) for name in names}
        for victim in (waits, runs):
            damage(plane, victim, **values)
        everybody_else_goes_on(plane, innocent)


@quick
@given(data=st.data(), name=st.sampled_from(sorted(FILES)))
def test_no_file_stops_the_others(make_plane: Callable[[Path], ControlPlane], data: st.DataObject, name: str) -> None:
    """C1: files of another release, damaged, or a folder or something else in their place."""
    with a_plane(make_plane) as plane:
        _, driver = plane.running()
        innocent = plane.submit()
        content = data.draw(st.one_of(FILES[name], st.none()), label=name)
        path = driver.folder.path / name
        path.unlink(missing_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass") + b"\n")
        everybody_else_goes_on(plane, innocent)


def test_a_spec_with_an_unknown_field_fails_alone_and_is_shown_as_it_is(plane: ControlPlane) -> None:
    """C1: it used to answer 500 to everybody who listed jobs, and to stop admission."""
    job_id, other = plane.submit({"scaling": {"workers": 1}}), plane.submit({"scaling": {"workers": 1}})
    stored = {"name": "a", "of_tomorrow": {"x": [1]}}
    damage(plane, job_id, spec=json.dumps(stored))
    shown = plane.service.get(job_id)
    assert shown.spec == stored
    assert shown.note is not None
    assert "of_tomorrow" in shown.note
    assert plane.service.get(other).note is None
    plane.tick(2)
    assert plane.state(job_id) == State.FAILED
    assert plane.error(job_id).error_class == "spec_unreadable"
    assert "of_tomorrow" in plane.error(job_id).message
    assert plane.state(other) == State.STARTING
    with pytest.raises(ConflictError, match="can't be read"):
        plane.service.retry(job_id)


def test_a_spec_of_a_newer_release_waits_for_it(plane: ControlPlane) -> None:
    """C1: the newer release may run beside this one, on the same database."""
    job_id, other = plane.submit({"scaling": {"workers": 1}}), plane.submit({"scaling": {"workers": 1}})
    damage(plane, job_id, spec_version=SPEC_VERSION + 1)
    plane.tick(3)
    assert (plane.state(job_id), plane.state(other)) == (State.QUEUED, State.STARTING)
    note = plane.service.get(job_id).note
    assert note is not None
    assert "newer release" in note


@pytest.mark.parametrize("column", ["state", "desired"])
def test_a_state_of_another_release_is_left_alone(plane: ControlPlane, column: str) -> None:
    """C1: listed, and neither moved nor deleted."""
    job_id, driver = plane.running()
    damage(plane, job_id, **{column: "HIBERNATING"})
    before = plane.service.get(job_id)
    assert getattr(before, column) == ("UNKNOWN" if column == "state" else "unknown")
    assert before.note is not None
    driver.finish()
    plane.tick(5)
    plane.reconciler.sweep()
    assert plane.service.get(job_id) == before
    with pytest.raises(ConflictError):
        plane.service.delete(job_id)
    if column == "state":
        with pytest.raises(ConflictError, match="another release"):
            plane.service.cancel(job_id)


def test_an_attempt_that_exists_already_fails_its_job_alone(plane: ControlPlane) -> None:
    """C1: rows that contradict each other undid the admission of all."""
    job_id, _ = plane.running({"scaling": {"workers": 1}})
    other = plane.submit({"scaling": {"workers": 1}})
    damage(plane, job_id, state="QUEUED", attempt=0)
    plane.tick(2)
    assert plane.state(other) == State.STARTING
    assert plane.state(job_id) == State.FAILED
    assert "attempt 1 exists already" in plane.error(job_id).message


def test_a_step_that_fails_for_ever_fails_its_job_with_the_reason(plane: ControlPlane) -> None:
    """A2: an error of one job's own; meanwhile the job says why it does not move."""
    job_id, driver = plane.running({"scaling": {"workers": 1}})
    (driver.folder.path / "metrics.jsonl").mkdir()
    plane.tick()
    shown = plane.service.get(job_id)
    assert shown.state == State.RUNNING
    assert shown.waiting is not None
    assert shown.waiting.reason == "step"
    assert shown.error is not None
    assert shown.error.error_class == "internal"
    assert "IsADirectoryError" in shown.error.message
    plane.tick(60, seconds=9.0)
    assert plane.state(job_id) == State.RUNNING, "not before its time"
    plane.until(job_id, State.FAILED, ticks=60, seconds=9.0)
    assert "IsADirectoryError" in plane.error(job_id).message
    assert plane.service.get(job_id).waiting is None


def test_what_mlflow_refuses_is_this_jobs_error_and_no_outage(plane: ControlPlane) -> None:
    """A2: the breaker stays closed, so an innocent job ends at once; the other fails after a while, with the reason."""
    guilty, driver = plane.running({"scaling": {"workers": 1}})
    innocent, other = plane.running({"scaling": {"workers": 1}})
    ship = plane.tracking.ship

    def refuse(job_dir: Path, run_id: str) -> None:
        if job_dir.name == guilty:
            raise Error("INVALID_PARAMETER_VALUE: the metric has no name")
        ship(job_dir, run_id)

    plane.tracking.ship = refuse  # type: ignore[method-assign]  # what only MLflow could know
    driver.finish()
    other.finish()
    plane.until(innocent, State.SUCCEEDED, ticks=5)
    assert "INVALID_PARAMETER_VALUE" in plane.error(guilty).message
    plane.until(guilty, State.FAILED, ticks=200, seconds=5.0)
    assert plane.error(guilty).error_class == "internal"
    assert "INVALID_PARAMETER_VALUE" in plane.error(guilty).message
    plane.tick(200, seconds=10)
    assert plane.store.job(guilty).cleaned_up, "what can't be closed is given up, so that it can be deleted"


@pytest.mark.parametrize("part", ["mlflow", "cluster"])
def test_a_job_that_waits_for_a_part_says_so(plane: ControlPlane, part: str) -> None:
    """A4: `error: null` and nothing else told nobody why it did not move."""
    away = plane.tracking if part == "mlflow" else plane.launcher
    job_id = plane.submit()
    plane.reconciler.admit()
    away.unreachable = True
    plane.tick(100, seconds=10)
    shown = plane.service.get(job_id)
    assert shown.state == State.SUBMITTING
    assert shown.waiting is not None
    assert shown.waiting.reason == part
    assert "does not answer" in shown.waiting.missing
    assert shown.error is None, "an outage is not the job's error, however long it lasts"
    away.unreachable = False
    plane.until(job_id, State.STARTING, ticks=10)
    assert plane.service.get(job_id).waiting is None
    told = [event.data["for"] for event in plane.service.events(job_id=job_id) if event.type == "waiting"]
    assert told == [part], "once, however often it was tried"


def test_a_clock_that_is_set_back_holds_nothing_up(plane: ControlPlane) -> None:
    """B7: `not_before`, leases and times seen lay an hour ahead, and the job stood still for that long."""
    job_id, driver = plane.running()
    waits = plane.submit({"scaling": {"workers": 1}})
    plane.service.cancel(waits)
    plane.tick()
    plane.pass_(-3600)
    driver.beat(50)
    plane.tick(3)
    assert plane.progress(job_id).iteration == 50
    driver.die()
    plane.until(job_id, State.RETRY_WAIT, ticks=40)
    plane.pass_(-3600)
    plane.until(job_id, State.STARTING, ticks=5)
