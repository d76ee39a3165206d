"""Several control planes, with real threads, on one real database; the cluster and MLflow are fakes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.backends.fakes import FakeLauncher, FakeTracking
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Outcome, Phase, Progress, Result, Want
from jobs.errors import FolderError
from jobs.interfaces import Capacity, NodeCapacity
from jobs.specs import job_spec
from service.db.store import Store
from service.errors import ConflictError, StoreUnavailableError
from service.job_state import ENDED, State
from service.reconciler.loop import Reconciler
from service.scheduling.job_service import JobService
from service.settings import ReconcilerSettings
from service.upstream.cluster_monitor import ClusterMonitor
from tests.postgres import PostgresServer

QUICK = ReconcilerSettings(
    reconcile_every=0.02,
    reconcile_threads=3,
    lease_for=1.0,
    sweep_every=0.5,
    retry_wait=0.01,
    cluster_poll=0.05,
    heartbeat_stale=0.5,
    lost_after=0.5,
    tracking_retry=0.05,
    max_concurrent_jobs=20,
)
FIGURE = {"kind": "figure", "name": "f", "figure": 4}
"""Needs no checkpoint to succeed."""


class FakeDrivers:
    """Drivers of all attempts on the fake cluster, in a thread: they obey control.json, beat a few times and succeed.

    Args:
        launcher: the cluster.
        jobs_dir: folder of the job folders.
        deaths: the first so many drivers vanish instead of succeeding.
    """

    def __init__(self, launcher: FakeLauncher, jobs_dir: Path, deaths: int) -> None:
        self._launcher = launcher
        self._jobs_dir = jobs_dir
        self._deaths = deaths
        self._beats: dict[str, int] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="drivers")

    def __enter__(self) -> "FakeDrivers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._end.wait(0.01):
            for name in sorted(self._launcher.live()):
                self._step(name)

    def _step(self, name: str) -> None:
        job_id, _, number = name.rpartition("-")
        folder = JobFolder(self._jobs_dir / job_id)
        attempt = folder.attempt(int(number))
        beats = self._beats[name] = self._beats.get(name, 0) + 1
        control = self._control(folder)
        if control.want is not Want.RUN:
            outcome = Outcome.PAUSED if control.want is Want.PAUSE else Outcome.CANCELLED
            attempt.write_result(Result(outcome=outcome))
            self._launcher.finish(name)
        elif beats > 4 and self._deaths > 0:
            self._deaths -= 1
            self._launcher.vanish(name)
        elif beats > 5:
            attempt.write_result(Result(outcome=Outcome.SUCCEEDED, iterations=5))
            self._launcher.finish(name)
        else:
            now = time.time()
            attempt.write_progress(Progress(time=now, last_progress_at=now, phase=Phase.TRAINING, iteration=beats))

    def _control(self, folder: JobFolder) -> Control:
        try:
            return folder.read_control()
        except FolderError:
            return Control(attempt=0)


class Backends:
    """Fake cluster, fake MLflow and a real database, and as many control planes on them as a test starts.

    Args:
        root: folder of the job folders.
        url: of an empty database.
    """

    def __init__(self, root: Path, url: str) -> None:
        self.jobs_dir = root / "jobs"
        self.launcher = FakeLauncher(Capacity((NodeCapacity(cpus=20, gpus=0),)))
        self.tracking = FakeTracking()
        self.url = url
        self.store = Store(url)
        self.store.migrate()
        self.service = JobService(self.store, self.cluster_monitor(), self.jobs_dir, QUICK)

    def cluster_monitor(self) -> ClusterMonitor:
        return ClusterMonitor(self.launcher, self.store.now)

    @contextmanager
    def control_planes(self, number: int) -> Iterator[None]:
        stores = [Store(self.url) for _ in range(number)]
        planes = [Reconciler(store, self.cluster_monitor(), self.tracking, self.jobs_dir, QUICK) for store in stores]
        for plane in planes:
            plane.start()
        try:
            yield
        finally:
            for plane, store in zip(planes, stores, strict=True):
                plane.stop()
                store.close()

    def submit(self, number: int) -> list[str]:
        return [self.service.submit(job_spec.validate_python(FIGURE)).id for _ in range(number)]

    def wait(self, done: Callable[[], bool], seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if done():
                    return
            except StoreUnavailableError:
                pass  # the test has stopped the database
            assert time.monotonic() < deadline, self.store.counts()
            time.sleep(0.05)

    def all_ended(self, ids: list[str]) -> bool:
        return all(job.state in ENDED and job.cleaned_up for job in self.store.jobs(ids).values())

    def check(self, ids: list[str]) -> None:
        assert len(self.launcher.submitted) == len(set(self.launcher.submitted)), "no attempt ran twice"
        for job_id in ids:
            steps = [event.data for event in self.store.events(job_id=job_id) if event.type == "transition"]
            assert [step["to"] for step in steps[:-1]] == [step["from"] for step in steps[1:]]
            assert [step["to"] for step in steps].count("SUBMITTING") == self.store.job(job_id).attempt
        assert self.launcher.live() == set()
        assert self.tracking.open_runs() == []


@pytest.fixture
def backends(tmp_path: Path, database_url: str) -> Iterator[Backends]:
    made = Backends(tmp_path, database_url)
    yield made
    made.store.close()


def test_three_control_planes_share_the_work_and_do_everything_once(backends: Backends) -> None:
    ids = backends.submit(20)
    with FakeDrivers(backends.launcher, backends.jobs_dir, deaths=5), backends.control_planes(3):
        backends.wait(lambda: backends.all_ended(ids))
    assert backends.store.counts() == {State.SUCCEEDED: 20}
    assert sum(job.losses for job in backends.store.jobs(ids).values()) == 5
    backends.check(ids)


def test_a_control_plane_takes_over_from_one_that_was_killed(backends: Backends) -> None:
    ids = backends.submit(4)
    dead = Reconciler(backends.store, backends.cluster_monitor(), backends.tracking, backends.jobs_dir, QUICK)
    dead.admit()
    taken = dead._leases.claim(QUICK.lease_for, limit=10)  # and is killed with the leases in its hands
    assert len(taken) == 4
    with FakeDrivers(backends.launcher, backends.jobs_dir, deaths=0), backends.control_planes(1):
        backends.wait(lambda: backends.all_ended(ids))
    assert backends.store.counts() == {State.SUCCEEDED: 4}
    backends.check(ids)


def in_time(change: Callable[[str], object], job_id: str) -> bool:
    """Whether a job could still be changed; one that is about to end, or has ended, is refused."""
    try:
        change(job_id)
    except ConflictError:
        return False
    return True


def test_people_change_their_minds_while_it_all_runs(backends: Backends) -> None:
    ids = backends.submit(12)
    service = backends.service
    with FakeDrivers(backends.launcher, backends.jobs_dir, deaths=2), backends.control_planes(2):
        # Newest first: those are furthest from their end.
        cancelled = [job_id for job_id in reversed(ids[6:]) if in_time(service.cancel, job_id)]
        paused = [job_id for job_id in reversed(ids[:6]) if in_time(service.pause, job_id)]
        backends.wait(lambda: all(backends.store.job(job_id).state in ENDED | {State.PAUSED} for job_id in paused))
        for job_id in paused:
            if service.get(job_id).state == State.PAUSED:
                service.resume(job_id)
        backends.wait(lambda: backends.all_ended(ids))
    assert cancelled
    assert {backends.store.job(job_id).state for job_id in cancelled} == {State.CANCELLED}
    assert {backends.store.job(job_id).state for job_id in set(ids) - set(cancelled)} == {State.SUCCEEDED}
    backends.check(ids)


def test_the_database_dies_twice_and_nothing_is_lost(tmp_path: Path, postgres_server: PostgresServer) -> None:
    backends = Backends(tmp_path, postgres_server.url)
    ids = backends.submit(12)
    with FakeDrivers(backends.launcher, backends.jobs_dir, deaths=3), backends.control_planes(2):
        for _ in range(2):
            backends.wait(lambda: backends.store.counts().get(State.QUEUED, 0) < 12)
            postgres_server.stop()
            with pytest.raises(StoreUnavailableError):
                backends.store.counts()
            postgres_server.start()
        backends.wait(lambda: backends.all_ended(ids))
    assert backends.store.counts() == {State.SUCCEEDED: 12}
    backends.check(ids)
    backends.store.close()
