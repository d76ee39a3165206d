"""Control plane on a fake cluster and a fake tracking server, with a clock that the test moves."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict, Unpack

from jobs.backends.fakes import FakeLauncher, FakeTracking
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Failure, Outcome, Phase, Progress, Result
from jobs.errors import ErrorClass
from jobs.interfaces import ProcessState, submission_id
from jobs.specs import job_spec, makes_model
from jobs.storage.job_files import JobFiles
from seqae.checkpoints import manifest
from service.db.store import Store
from service.job_state import State
from service.reconciler.loop import Reconciler
from service.scheduling.job_service import JobService
from service.schemas.jobs import ErrorView, ProgressView
from service.settings import ReconcilerSettings
from service.upstream.cluster_monitor import ClusterMonitor
from tests.reports import make_report

__all__ = ["ControlPlane", "FakeDriver"]

_START = datetime(2026, 1, 1, tzinfo=UTC)


class SettingChanges(TypedDict, total=False):
    """Fields of ReconcilerSettings that tests change."""

    max_concurrent_jobs: int
    preemption: bool
    max_losses: int
    max_retries: int
    retry_wait: float
    retry_wait_max: float
    scheduling_deadline: float
    stall_after: float
    start_deadline: float
    stop_grace: float
    time_limit: float


class FakeDriver:
    """Driver of one attempt, whose files the test writes and whose process the fake cluster runs.

    Args:
        plane: the control plane whose cluster runs it.
        job_id: of the job.
        number: of the attempt.
    """

    def __init__(self, plane: "ControlPlane", job_id: str, number: int) -> None:
        self._plane = plane
        self.name = submission_id(job_id, number)
        self.job_folder = JobFolder(plane.jobs_dir / job_id)
        self.folder = self.job_folder.attempt(number)

    @property
    def control(self) -> Control:
        """What the control plane wants of the newest attempt."""
        return self.job_folder.read_control()

    @property
    def process(self) -> ProcessState | None:
        """State of its process; None: the cluster knows none."""
        return self._plane.launcher._states.get(self.name)

    def beat(
        self,
        iteration: int = 0,
        phase: Phase = Phase.TRAINING,
        moved: bool = True,
        *,
        loss: float | None = None,
        images_per_second: float | None = None,
        eta_seconds: float | None = None,
        comparisons_missing: int | None = None,
    ) -> None:
        """Writes a heartbeat; on the cluster the attempt runs.

        Args:
            iteration: how far it is, of 100.
            phase: what it is at.
            moved: whether it got further since the last heartbeat.
            loss: of the last iteration.
            images_per_second: its speed.
            eta_seconds: the time left.
            comparisons_missing: answers that a search by eye waits for.
        """
        now = self._plane.now.timestamp()
        last = self.folder.read_progress()
        self.folder.write_progress(
            Progress(
                time=now,
                last_progress_at=now if moved or last is None else last.last_progress_at,
                phase=phase,
                iteration=iteration,
                iterations=100,
                epochs=1.0,
                loss=loss,
                images_per_second=images_per_second,
                eta_seconds=eta_seconds,
                comparisons_missing=comparisons_missing,
            )
        )
        if self.process is not None:
            self._plane.launcher.run(self.name)

    def finish(
        self,
        outcome: Outcome = Outcome.SUCCEEDED,
        error: Failure | None = None,
        leave: bool = True,
        mse: float = 0.01,
    ) -> None:
        """Writes the result, after a checkpoint and its test if there is a model to register; exits if `leave`."""
        has_model = outcome == Outcome.SUCCEEDED and makes_model(self.job_folder.read_spec().kind)
        checkpoint = self.checkpoint(100) if has_model else None
        if has_model:
            self.folder.write_report(make_report(mse))
        self.folder.write_result(
            Result(
                outcome=outcome,
                error=error,
                metrics={"test/mse": mse},
                checkpoint=None if checkpoint is None else str(checkpoint.relative_to(self.job_folder.path)),
                iterations=100,
                evaluation_set="scenes",
            )
        )
        if leave and self.process is not None:
            self._plane.launcher.finish(self.name)

    def fail(self, error_class: ErrorClass = ErrorClass.DIVERGED, message: str = "the loss is NaN") -> None:
        """Writes a failed result and exits."""
        self.finish(Outcome.FAILED, Failure(error_class=error_class, message=message))

    def print(self, text: str) -> None:
        """Appends to driver.log."""
        self.folder.path.mkdir(parents=True, exist_ok=True)
        with self.folder.log.open("a") as log:
            log.write(text)

    def die(self) -> None:
        """Ends as after SIGKILL: the cluster notices, and there is no result."""
        self._plane.launcher.finish(self.name, ProcessState.FAILED)

    def checkpoint(self, step: int) -> Path:
        """Writes a checkpoint that verifies, though its weights are none."""
        path = self.folder.checkpoints / str(step)
        path.mkdir(parents=True)
        (path / "model.safetensors").write_text(f"weights of step {step}")
        manifest.write(path, iteration=step, metrics={})
        return path


class ControlPlane:
    """Store, job service and reconciler on fakes, in which time passes only when the test says so.

    Args:
        root: folder of the job folders.
        url: of the database, which is migrated.
        settings: of the reconciler and of the queue.
        now: time at the start.
        launcher: the cluster; None: a fake that runs nothing.
        files: where jobs' files are; None: in the job folders, which drivers share.
    """

    def __init__(
        self,
        root: Path,
        url: str,
        settings: ReconcilerSettings,
        now: datetime = _START,
        launcher: FakeLauncher | None = None,
        files: JobFiles | None = None,
    ) -> None:
        self.now = now
        self.jobs_dir = root / "jobs"
        self.settings = settings
        self.url = url
        self.files = files
        self.launcher = launcher or FakeLauncher()
        self.tracking = FakeTracking()
        self.store = self.another_store()
        self.store.migrate()
        self.service = JobService(self.store, self.another_cluster_monitor(), self.jobs_dir, settings, files=files)
        self.reconciler = self.another_reconciler()

    def another_store(self) -> Store:
        """A second connection to the database, as another process would have it."""
        return Store(self.url, clock=lambda: self.now)

    def another_cluster_monitor(self) -> ClusterMonitor:
        """A second view of the cluster, as another process would have it."""
        return ClusterMonitor(self.launcher, lambda: self.now)

    def another_reconciler(self, store: Store | None = None, **changes: Unpack[SettingChanges]) -> Reconciler:
        """A second reconciler, as another process would have it, with other settings."""
        settings = self.settings.model_copy(update=dict(changes))
        cluster = self.another_cluster_monitor()
        return Reconciler(store or self.store, cluster, self.tracking, self.jobs_dir, settings, files=self.files)

    def submit(self, spec: dict[str, Any] | None = None, *, owner: str = "", priority: int = 0) -> str:
        """Submits a job and returns its id; what `spec` leaves out makes it a training run on two workers."""
        given = job_spec.validate_python({"name": "scenes", "scaling": {"workers": 2}} | (spec or {}))
        return self.service.submit(given, owner=owner, priority=priority).id

    def state(self, job_id: str) -> State:
        """The job's state, as the database has it."""
        return self.store.job(job_id).state

    def error(self, job_id: str) -> ErrorView:
        """The job's error, as clients see it. It must have one."""
        error = self.service.get(job_id).error
        assert error is not None
        return error

    def progress(self, job_id: str) -> ProgressView:
        """The job's progress, as clients see it. It must have some."""
        progress = self.service.get(job_id).progress
        assert progress is not None
        return progress

    def driver(self, job_id: str) -> FakeDriver:
        """The newest attempt's driver."""
        return FakeDriver(self, job_id, self.store.job(job_id).attempt)

    def pass_(self, seconds: float) -> None:
        """Lets time pass, in which nothing happens."""
        self.now += timedelta(seconds=seconds)

    def tick(self, times: int = 1, seconds: float = 1.0) -> None:
        """Lets time pass, and the reconciler do a round after each `seconds`."""
        for _ in range(times):
            self.pass_(seconds)
            self.reconciler.tick()

    def until(
        self, job_id: str, state: State, ticks: int = 100, driver: FakeDriver | None = None, seconds: float = 1.0
    ) -> None:
        """Runs rounds until a job is in a state; meanwhile the driver, if given, keeps beating.

        Raises:
            AssertionError: it is not after `ticks` rounds.
        """
        for _ in range(ticks):
            if self.state(job_id) == state:
                return
            if driver is not None:
                driver.beat(moved=False)
            self.tick(seconds=seconds)
        raise AssertionError(f"job {job_id} is {self.state(job_id)} after {ticks} rounds, not {state}")

    def running(self, spec: dict[str, Any] | None = None, *, owner: str = "") -> tuple[str, FakeDriver]:
        """Submits a job and brings it to RUNNING; returns its id and its driver."""
        job_id = self.submit(spec, owner=owner)
        self.until(job_id, State.STARTING)
        driver = self.driver(job_id)
        driver.beat(1)
        self.until(job_id, State.RUNNING)
        return job_id, driver

    def path_of(self, job_id: str) -> list[str]:
        """States that a job went through, by its events."""
        events = self.store.events(job_id=job_id)
        return [event.data["to"] for event in events if event.type == "transition"]
