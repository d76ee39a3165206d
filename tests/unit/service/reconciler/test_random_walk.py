"""A random walk through everything that can happen to jobs, with processes killed in the middle of their steps.

Whatever happens: only steps of the table, ended jobs stay as they are, the events tell the same story as the row, and
no attempt's number runs twice. When all is well again every job comes to an end, with one model for each that
succeeded, and nothing left open.
"""

import shutil
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from jobs.directory.records import Outcome, Want
from jobs.errors import ErrorClass, FolderError
from jobs.interfaces import ProcessState
from service.errors import ConflictError
from service.job_state import ENDED, State, is_legal
from service.reconciler.loop import Reconciler
from service.upstream.cluster_monitor import ClusterMonitor
from tests.control_plane import ControlPlane, FakeDriver


class KilledError(BaseException):
    """SIGKILL: nothing catches it, and nothing is cleaned up."""


class Fuse:
    """Kills whoever makes the n-th call from now on, before or after the call has had its effect."""

    def __init__(self) -> None:
        self.calls = -1
        self.after = False

    def wrap(self, target: Any) -> Any:
        return _Fused(target, self)


class _Fused:
    def __init__(self, target: Any, fuse: Fuse) -> None:
        self._target = target
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found) or name == "now":
            return found
        return lambda *args, **options: self._call(found, *args, **options)

    def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        fuse = self._fuse
        fuse.calls -= 1
        if fuse.calls == 0 and not fuse.after:
            raise KilledError
        answer = method(*args, **options)
        if fuse.calls == 0:
            raise KilledError
        return answer


class Walk(RuleBasedStateMachine):
    """One control plane, with any number of processes, one after the other or side by side."""

    jobs = Bundle("jobs")
    make_plane: Callable[[Path], ControlPlane]

    @initialize(target=jobs)
    def begin(self) -> Any:
        # In memory where there is such a place: a walk writes some thousand transactions.
        memory = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(prefix="seqae-walk-", dir=memory if memory.is_dir() else None))
        self.plane = type(self).make_plane(self.root)
        self.fuse = Fuse()
        self.plane.reconciler = self.new_process()
        self.other = self.new_process()
        self.ended: dict[str, tuple[State, int]] = {}
        self.seen: dict[str, list[dict[str, Any]]] = {}
        self.last_event = 0
        self.ids = [self.plane.submit({"scaling": {"workers": 1}}) for _ in range(2)]
        self.plane.tick(2)
        return multiple(*self.ids)

    def new_process(self) -> Reconciler:
        plane, wrap = self.plane, self.fuse.wrap
        cluster = ClusterMonitor(wrap(plane.launcher), plane.store.now)
        return Reconciler(wrap(plane.store), cluster, wrap(plane.tracking), plane.jobs_dir, plane.settings)

    # --- people

    @rule(target=jobs, workers=st.sampled_from([1, 2]), priority=st.integers(0, 2))
    def submit(self, workers: int, priority: int) -> Any:
        if len(self.ids) >= 4:
            return multiple()
        job_id = self.plane.submit({"scaling": {"workers": workers}}, priority=priority)
        self.ids.append(job_id)
        return job_id

    @rule(job=jobs, what=st.sampled_from(["cancel", "pause", "resume", "pause", "resume"]))
    def ask(self, job: str, what: str) -> None:
        try:
            getattr(self.plane.service, what)(job)
        except ConflictError:
            before = self.plane.state(job)
            assert before in ENDED | {State.CANCELLING, State.FINALIZING} or self.plane.store.job(job).desired != "run"

    # --- time, and processes of the control plane

    @rule(times=st.integers(1, 3), seconds=st.sampled_from([1.0, 1.0, 20.0, 70.0]), other=st.booleans())
    def tick(self, times: int, seconds: float, other: bool) -> None:
        for _ in range(times):
            self.plane.pass_(seconds)
            (self.other if other else self.plane.reconciler).tick()

    @rule(calls=st.integers(1, 25), after=st.booleans(), times=st.integers(1, 3))
    def tick_and_be_killed(self, calls: int, after: bool, times: int) -> None:
        self.fuse.calls, self.fuse.after = calls, after
        try:
            for _ in range(times):
                self.plane.pass_(1)
                self.plane.reconciler.tick()
        except KilledError:
            self.plane.reconciler = self.new_process()
        self.fuse.calls = -1

    @rule()
    def sweep(self) -> None:
        self.plane.pass_(31)
        self.plane.reconciler.sweep()

    # --- the cluster and MLflow

    @rule(job=jobs, iteration=st.integers(1, 99))
    def beat(self, job: str, iteration: int) -> None:
        driver = self.live_driver(job)
        if driver is not None:
            driver.beat(iteration)

    @rule(job=jobs, how=st.sampled_from(["succeed", "succeed", "diverge", "lose", "die", "leave as asked"]))
    def end_attempt(self, job: str, how: str) -> None:
        driver = self.live_driver(job)
        if driver is None:
            return
        if how == "succeed":
            driver.finish()
        elif how == "diverge":
            driver.fail()
        elif how == "lose":
            driver.fail(ErrorClass.INFRASTRUCTURE, "workers were lost")
        elif how == "die":
            driver.die()
        elif driver.control.want is not Want.RUN:
            driver.finish(Outcome.PAUSED if driver.control.want is Want.PAUSE else Outcome.CANCELLED)

    @rule()
    def replace_head(self) -> None:
        self.plane.launcher.replace_cluster()

    @rule(what=st.sampled_from(["cluster", "mlflow", "answers", "nothing", "nothing"]))
    def break_or_mend(self, what: str) -> None:
        self.plane.launcher.unreachable = what == "cluster"
        self.plane.launcher.loses_answers = what == "answers"
        self.plane.tracking.unreachable = what == "mlflow"

    def live_driver(self, job: str) -> FakeDriver | None:
        """The newest attempt's driver, while the cluster runs it and no newer attempt fences it off."""
        driver = self.plane.driver(job)
        if driver.process is None or driver.process.is_terminal() or driver.folder.read_result() is not None:
            return None
        return driver if driver.control.attempt == driver.folder.number else None

    # --- what always holds

    @invariant()
    def events_tell_the_rows_story(self) -> None:
        for event in self.plane.store.events(after_id=self.last_event):
            self.last_event = event.id
            if event.type == "transition":
                self.seen.setdefault(event.job_id, []).append(event.data)
        for job_id, job in self.plane.store.jobs(self.ids).items():
            steps = self.seen[job_id]
            assert (steps[0]["from"], steps[0]["to"]) == (None, "QUEUED")
            for before, after in pairwise(steps):
                assert after["from"] == before["to"]
                assert is_legal(State(after["from"]), State(after["to"]))
                assert after["attempt"] in (before["attempt"], before["attempt"] + 1)
            assert steps[-1]["to"] == job.state
            assert steps[-1]["attempt"] == job.attempt

    @invariant()
    def ends_are_final(self) -> None:
        for job_id, job in self.plane.store.jobs(self.ids).items():
            if job_id in self.ended:
                assert (job.state, job.version) == self.ended[job_id]
            elif job.state.is_terminal:
                self.ended[job_id] = (job.state, job.version)

    @invariant()
    def no_number_runs_twice(self) -> None:
        submitted = self.plane.launcher.submitted
        assert len(submitted) == len(set(submitted))

    @invariant()
    def one_open_attempt_at_most(self) -> None:
        for job_id in self.ids:
            attempts = self.plane.store.attempts(job_id)
            assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
            assert all(attempt.outcome is not None for attempt in attempts[:-1])

    def teardown(self) -> None:
        if not hasattr(self, "plane"):
            return
        try:
            self.all_ends_well()
        finally:
            self.plane.store.close()
            shutil.rmtree(self.root)

    def all_ends_well(self) -> None:
        """Everything works from now on, and every attempt does what it is asked."""
        plane = self.plane
        plane.launcher.unreachable = plane.launcher.loses_answers = plane.tracking.unreachable = False
        for job_id in self.ids:
            if plane.state(job_id) not in ENDED and plane.store.job(job_id).desired == "pause":
                try:
                    plane.service.resume(job_id)
                except ConflictError:
                    assert plane.state(job_id) == State.CANCELLING
        for _ in range(400):
            if all(plane.state(job_id) in ENDED and plane.store.job(job_id).cleaned_up for job_id in self.ids):
                break
            for job_id in self.ids:
                self.obey(job_id)
            plane.pass_(5)
            plane.reconciler.tick()
        plane.pass_(31)
        plane.reconciler.sweep()
        self.ends_are_final()
        self.events_tell_the_rows_story()
        for job_id in self.ids:
            job = plane.store.job(job_id)
            assert job.state in ENDED, f"{job.state} by way of {plane.path_of(job_id)}"
            models = [version for version in plane.tracking.versions if version.job_id == job_id]
            assert len(models) == (1 if job.state == State.SUCCEEDED else len(models))
            assert len(models) <= 1
        assert plane.launcher.live() == set()
        assert plane.tracking.open_runs() == []

    def obey(self, job_id: str) -> None:
        driver = self.live_driver(job_id)
        if driver is None:
            return
        try:
            want = driver.control.want
        except FolderError:
            return
        driver.beat(100)
        outcomes = {Want.RUN: Outcome.SUCCEEDED, Want.PAUSE: Outcome.PAUSED, Want.CANCEL: Outcome.CANCELLED}
        driver.finish(outcomes[want])


@pytest.mark.parametrize("examples", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_walk(make_plane: Callable[[Path], ControlPlane], examples: int) -> None:
    class Prepared(Walk):
        pass

    Prepared.make_plane = staticmethod(make_plane)
    run_state_machine_as_test(
        Prepared,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        ),
    )


def test_the_fuse_kills_before_or_after() -> None:
    class Target:
        done = 0

        def act(self) -> None:
            self.done += 1

    fuse, target = Fuse(), Target()
    fused = fuse.wrap(target)
    fuse.calls, fuse.after = 2, False
    fused.act()
    with pytest.raises(KilledError):
        fused.act()
    assert target.done == 1
    fuse.calls, fuse.after = 1, True
    with pytest.raises(KilledError):
        fused.act()
    assert target.done == 2
    assert ProcessState.FAILED.is_terminal()
