"""The reconciler over a real cluster, a real MLflow and a real database, whose parts are killed while jobs run."""

import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from jobs.folder import JobFolder
from jobs.specs import job_spec
from service.policy import ReconcilerSettings
from service.reconciler import Reconciler
from service.states import ENDED, State
from service.store import Store
from service.use_cases import JobService

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

CURVE = list(range(2, 321, 2))
"""Steps of the curve of 40 epochs of 8 iterations, every second one recorded."""


class Plane:
    """A control plane in this process."""

    def __init__(self, services: Any) -> None:
        home = services.layout.home
        self.services = services
        self.jobs_dir = home / "jobs"
        self.store = Store(f"sqlite:///{home / 'control' / 'recovery.db'}")
        self.store.migrate()
        settings = ReconcilerSettings(sweep_every=5.0)
        self.jobs = JobService(self.store, services.launcher, self.jobs_dir, settings)
        environment = {"MLFLOW_TRACKING_URI": services.mlflow.url, "SEQAE_CACHE_DIR": str(home / "data")}
        parts = (self.store, services.launcher, services.tracking, self.jobs_dir)
        self.reconciler = Reconciler(*parts, settings, environment)

    def submit(self, tiny: dict[str, Any], epochs: int = 40) -> str:
        spec = tiny | {"schedule": tiny["schedule"] | {"epochs": epochs}}
        return self.jobs.submit(job_spec.validate_python(spec)).id

    def iteration(self, job_id: str) -> int:
        job = self.jobs.get(job_id)
        trains = job.state == State.RUNNING and job.progress is not None and job.progress.phase == "training"
        return job.progress.iteration if trains and job.progress is not None else 0

    def has_ended(self, job_id: str) -> bool:
        row = self.store.job(job_id)
        return row.state in ENDED and row.tidy

    def driver(self, job_id: str) -> psutil.Process:
        """The process of the newest attempt's driver."""
        arguments = ["--job-dir", str(self.jobs_dir / job_id)]
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if "jobs.train" in line and all(argument in line for argument in arguments):
                return process
        raise AssertionError(f"no driver of {job_id}")

    def check(self, job_id: str, attempts: int) -> None:
        """It has succeeded, once, with a whole curve, and has left nothing behind."""
        job = self.jobs.get(job_id)
        assert (job.state, job.error, job.attempt) == (State.SUCCEEDED, None, attempts), self.jobs.logs(job_id)
        assert job.retries == 0
        client = self.services.tracking._client
        run = client.get_run(self.store.job(job_id).mlflow_run_id)
        assert run.info.status == "FINISHED"
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == CURVE
        versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
        assert len(versions) == 1
        assert self.services.actors() == []
        assert self.services.launcher.live() == set()


@pytest.fixture
def plane(services: Any) -> Iterator[Plane]:
    made = Plane(services)
    made.reconciler.start()
    yield made
    made.reconciler.stop()
    made.store.close()


def _until(condition: Any, what: str, seconds: float = 400.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


def test_a_killed_driver(plane: Plane, tiny: dict[str, Any]) -> None:
    job_id = plane.submit(tiny)
    _until(lambda: plane.iteration(job_id) >= 40, "it trains")
    plane.driver(job_id).kill()
    _until(lambda: plane.has_ended(job_id), "it ends by itself")
    plane.check(job_id, attempts=2)
    notes = JobFolder(plane.jobs_dir / job_id).attempt(2).notes()
    assert "resumed" in [note.kind for note in notes]


def test_mlflow_is_away_while_it_trains_and_ends(plane: Plane, daemons: Any, tiny: dict[str, Any]) -> None:
    job_id = plane.submit(tiny)
    _until(lambda: plane.iteration(job_id) >= 40, "it trains")
    daemons.kill(daemons.mlflow)
    _until(lambda: plane.store.job(job_id).state == State.FINALIZING, "training does not wait for MLflow")
    daemons.start(daemons.mlflow)
    daemons.wait(daemons.mlflow)
    _until(lambda: plane.has_ended(job_id), "it ends by itself")
    plane.check(job_id, attempts=1)


def test_a_killed_head(plane: Plane, daemons: Any, tiny: dict[str, Any]) -> None:
    job_id = plane.submit(tiny)
    _until(lambda: plane.iteration(job_id) >= 40, "it trains")
    daemons.kill(daemons.ray)
    daemons.start(daemons.ray)
    daemons.wait(daemons.ray)
    _until(lambda: plane.has_ended(job_id), "it ends by itself")
    plane.check(job_id, attempts=2)


def test_a_control_plane_that_is_killed_while_it_trains(services: Any, plane: Plane, tiny: dict[str, Any]) -> None:
    job_id = plane.submit(tiny)
    _until(lambda: plane.iteration(job_id) >= 40, "it trains")
    plane.reconciler.stop()
    _until(lambda: plane.services.launcher.live() == set(), "it goes on alone")
    other = Plane(services)
    other.reconciler.start()
    _until(lambda: other.has_ended(job_id), "another one takes it over")
    other.check(job_id, attempts=1)
    other.reconciler.stop()
    other.store.close()
