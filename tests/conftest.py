"""What tests of several rooms share: databases to run against, and a control plane on fakes with a clock of its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.backends.fakes import FakeLauncher, FakeTracking
from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.directory.records import Control, Failure, Outcome, Phase, Progress, Result
from jobs.errors import ErrorClass
from jobs.interfaces import ProcessState, submission_id
from jobs.specs import job_spec
from seqae.checkpoints import manifest
from service.db.store import Store
from service.job_state import State
from service.reconciler.loop import Reconciler
from service.scheduling.job_service import JobService
from service.settings import ReconcilerSettings
from service.upstream.cluster_monitor import ClusterMonitor
from tests.postgres import NoPostgresError, PostgresServer, running_postgres

# --- databases


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A PostgreSQL server that all tests share."""
    with _postgres_or_skip() as server:
        yield server


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that the test may stop and start."""
    with _postgres_or_skip() as server:
        yield server


@contextmanager
def _postgres_or_skip() -> Iterator[PostgresServer]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_postgres())
        except NoPostgresError as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a new, empty database: every test that takes it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    return str(request.getfixturevalue("postgresql").new_database())


# --- a control plane on fakes


class Driver:
    """What an attempt on the cluster does, done by the test."""

    def __init__(self, world: "World", job_id: str, number: int) -> None:
        self._world = world
        self.name = submission_id(job_id, number)
        self.job_folder = JobFolder(world.jobs_dir / job_id)
        self.folder: AttemptFolder = self.job_folder.attempt(number)

    @property
    def control(self) -> Control:
        return self.job_folder.read_control()

    def beat(self, iteration: int = 0, phase: Phase = Phase.TRAINING, moved: bool = True, **fields: Any) -> None:
        """A heartbeat; on the cluster the attempt runs."""
        now = self._world.now.timestamp()
        known = self.folder.read_progress()
        moved_at = now if moved or known is None else known.last_progress_at
        progress = {"time": now, "moved_at": moved_at, "phase": phase, "iteration": iteration, "iterations": 100}
        self.folder.write_progress(Progress.model_validate(progress | {"epochs": 1.0} | fields))
        if self._world.launcher.submissions.get(self.name) is not None and self._known():
            self._world.launcher.run(self.name)

    def finish(self, outcome: Outcome = Outcome.SUCCEEDED, error: Failure | None = None, leave: bool = True) -> None:
        """Writes the result, after a checkpoint, and leaves."""
        makes_model = outcome == Outcome.SUCCEEDED and self.job_folder.read_spec().kind != "figure"
        checkpoint = self.checkpoint(100) if makes_model else None
        self.folder.write_result(
            Result(
                outcome=outcome,
                error=error,
                metrics={"test_mse": 0.01},
                checkpoint=None if checkpoint is None else str(checkpoint.relative_to(self.job_folder.path)),
                iterations=100,
                evaluation_set="scenes",
            )
        )
        if leave and self._known():
            self._world.launcher.finish(self.name)

    def fail(self, error_class: ErrorClass = ErrorClass.DIVERGED, message: str = "the loss is NaN") -> None:
        self.finish(Outcome.FAILED, Failure(error_class=error_class, message=message))

    def print(self, text: str) -> None:
        self.folder.path.mkdir(parents=True, exist_ok=True)
        with self.folder.log.open("a") as log:
            log.write(text)

    def die(self) -> None:
        """SIGKILL: the cluster notices, and there is no result."""
        self._world.launcher.finish(self.name, ProcessState.FAILED)

    def checkpoint(self, step: int) -> Path:
        """A small checkpoint that is whole."""
        path = self.folder.checkpoints / str(step)
        path.mkdir(parents=True)
        (path / "model.safetensors").write_text(f"weights of step {step}")
        manifest.write(path, iteration=step, metrics={})
        return path

    def _known(self) -> bool:
        return self._world.launcher._states.get(self.name) is not None


class World:
    """A control plane on fakes, in which time passes only when the test says so."""

    def __init__(self, root: Path, url: str, settings: ReconcilerSettings) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.jobs_dir = root / "jobs"
        self.settings = settings
        self.url = url
        self.launcher = FakeLauncher()
        self.tracking = FakeTracking()
        self.store = self.another_store()
        self.store.migrate()
        self.service = JobService(self.store, self.another_cluster_monitor(), self.jobs_dir, settings)
        self.reconciler = self.another_reconciler()

    def another_store(self) -> Store:
        return Store(self.url, clock=lambda: self.now)

    def another_cluster_monitor(self) -> ClusterMonitor:
        return ClusterMonitor(self.launcher, lambda: self.now)

    def another_reconciler(self, store: Store | None = None, **settings: Any) -> Reconciler:
        """As another process would have it."""
        policy = self.settings.model_copy(update=settings)
        cluster = self.another_cluster_monitor()
        return Reconciler(store or self.store, cluster, self.tracking, self.jobs_dir, policy)

    def submit(self, spec: dict[str, Any] | None = None, **options: Any) -> str:
        given = job_spec.validate_python({"name": "scenes", "scaling": {"workers": 2}} | (spec or {}))
        return self.service.submit(given, **options).id

    def state(self, job_id: str) -> State:
        return self.store.job(job_id).state

    def driver(self, job_id: str) -> Driver:
        """The newest attempt's."""
        return Driver(self, job_id, self.store.job(job_id).attempt)

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def tick(self, times: int = 1, seconds: float = 1.0) -> None:
        """Lets time pass, and the reconciler do a round after each second."""
        for _ in range(times):
            self.pass_(seconds)
            self.reconciler.tick()

    def until(
        self, job_id: str, state: State, ticks: int = 100, driver: Driver | None = None, seconds: float = 1.0
    ) -> None:
        """Rounds until a job is in a state; meanwhile the driver, if given, keeps beating."""
        for _ in range(ticks):
            if self.state(job_id) == state:
                return
            if driver is not None:
                driver.beat(moved=False)
            self.tick(seconds=seconds)
        raise AssertionError(f"job {job_id} is {self.state(job_id)} after {ticks} rounds, not {state}")

    def running(self, spec: dict[str, Any] | None = None, **options: Any) -> tuple[str, Driver]:
        """A job that runs, and its driver."""
        job_id = self.submit(spec, **options)
        self.until(job_id, State.STARTING)
        driver = self.driver(job_id)
        driver.beat(1)
        self.until(job_id, State.RUNNING)
        return job_id, driver

    def path_of(self, job_id: str) -> list[str]:
        """The states that a job went through, by its events."""
        events = self.store.events(job_id=job_id)
        return [event.data["to"] for event in events if event.type == "transition"]


@pytest.fixture
def make_world() -> Callable[[Path], World]:
    """Makes a control plane on fakes in a folder."""
    policy = ReconcilerSettings(retry_wait=2.0)
    return lambda root: World(root, f"sqlite:///{root / 'jobs.db'}", policy)


@pytest.fixture
def world(tmp_path: Path, make_world: Callable[[Path], World]) -> Iterator[World]:
    made = make_world(tmp_path)
    yield made
    made.store.close()
