"""What tests of several rooms share: databases to run against, and a control plane on fakes with a clock of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg
import pytest

from jobs.errors import ErrorClass
from jobs.fakes import FakeLauncher, FakeTracking
from jobs.folder import Attempt, Control, Failure, JobFolder, Outcome, Phase, Progress, Result
from jobs.launch import ProcessState, submission_id
from jobs.specs import job_spec
from seqae import manifest
from service.policy import ReconcilerSettings
from service.reconciler import Reconciler
from service.states import State
from service.store import Store
from service.use_cases import JobService

# --- databases


def _postgres_tool(name: str) -> str | None:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


class PostgresServer:
    """A PostgreSQL server of the tests' own, on a socket in a folder of its own and on no port at all.

    Args:
        root: an empty folder with a short path, which the server's user owns.
        tools: paths of initdb and postgres.
        wrapper: what runs them as that user.
    """

    def __init__(self, root: Path, tools: dict[str, str], wrapper: list[str]) -> None:
        self._root = root
        self._tools = tools
        self._wrapper = wrapper
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://seqae@/postgres?host={root}"
        command = [*wrapper, tools["initdb"], "-D", str(root / "data"), "-U", "seqae", "-A", "trust", "--no-sync"]
        subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=120)

    def start(self) -> None:
        options = ["listen_addresses=", f"unix_socket_directories={self._root}", "fsync=off"]
        options += ["max_connections=60", "shared_buffers=32MB"]
        command = [*self._wrapper, self._tools["postgres"], "-D", str(self._root / "data")]
        command += [part for option in options for part in ("-c", option)]
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._root, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self._root / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL does not start"
            time.sleep(0.05)

    def stop(self) -> None:
        """At once: connections break, and the next start recovers, as after a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=60)

    def kill(self) -> None:
        """SIGKILL of the server and of all that works for its connections."""
        if self._process is not None:
            server = psutil.Process(self._process.pid)
            family = [server, *server.children(recursive=True)]
            for process in family:
                process.kill()
            self._process.wait(timeout=60)
            psutil.wait_procs(family, timeout=60)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def _postgres() -> Iterator[PostgresServer]:
    tools = {name: path for name in ("initdb", "postgres") if (path := _postgres_tool(name)) is not None}
    if len(tools) < 2:
        pytest.skip("no PostgreSQL on this machine (initdb, postgres)")
    setpriv = shutil.which("setpriv")
    # A test run that is killed takes its server with it.
    wrapper = [] if setpriv is None else [setpriv, "--pdeathsig", "QUIT"]
    # Its socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="seqae-pg-", ignore_cleanup_errors=True) as temporary:
        root = Path(temporary)
        if os.getuid() == 0:
            # It refuses to run as root.
            if setpriv is None:
                pytest.skip("PostgreSQL does not run as root, and there is no setpriv")
            wrapper += ["--reuid=65534", "--regid=65534", "--clear-groups"]
            os.chown(root, 65534, 65534)
        server = PostgresServer(root, tools, wrapper)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server that all tests share."""
    with _postgres() as server:
        yield server.url


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that tests may stop and start."""
    with _postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a new, empty database: every test that takes it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    server = request.getfixturevalue("postgresql")
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(server).replace("/postgres?", f"/{name}?")


# --- a control plane on fakes


class Driver:
    """What an attempt on the cluster does, done by the test."""

    def __init__(self, world: "World", job_id: str, number: int) -> None:
        self._world = world
        self.name = submission_id(job_id, number)
        self.job_folder = JobFolder(world.jobs_dir / job_id)
        self.folder: Attempt = self.job_folder.attempt(number)

    @property
    def control(self) -> Control:
        return self.job_folder.read_control()

    def beat(self, iteration: int = 0, phase: Phase = Phase.TRAINING, moved: bool = True, **fields: Any) -> None:
        """A heartbeat; on the cluster the attempt runs."""
        now = self._world.now.timestamp()
        known = self.folder.read_progress()
        moved_at = now if moved or known is None else known.moved_at
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
        self.finish(Outcome.FAILED, Failure.model_validate({"class": error_class, "message": message}))

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
        self.service = JobService(self.store, self.launcher, self.jobs_dir, settings)
        self.reconciler = self.another_reconciler()

    def another_store(self) -> Store:
        return Store(self.url, clock=lambda: self.now)

    def another_reconciler(self, store: Store | None = None, **settings: Any) -> Reconciler:
        """As another process would have it."""
        policy = self.settings.model_copy(update=settings)
        return Reconciler(store or self.store, self.launcher, self.tracking, self.jobs_dir, policy)

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
