"""A real Ray head and a real MLflow server, started once for all tests and gone afterwards."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from jobs.backends.mlflow import MlflowTracking
from jobs.backends.provenance import flat_params
from jobs.backends.ray import RayLauncher
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control
from jobs.interfaces import RunRef, Submission, submission_id
from jobs.specs import TrainSpec, TuneSpec, job_spec
from service.client import Client
from service.local.daemons import Daemon, HomeLayout
from tests.daemons import Daemons, has_room, living_actors, wait_until
from tests.tiny import ON_A_CLUSTER


@dataclass(frozen=True)
class Services:
    """What runs, and how it is reached."""

    layout: HomeLayout
    launcher: RayLauncher
    tracking: MlflowTracking
    ray: Daemon
    mlflow: Daemon

    def actors(self) -> list[dict[str, Any]]:
        """Ray's living actors, those of its own job service left out."""
        return living_actors(self.ray)

    def folder(self, job_id: str) -> JobFolder:
        return JobFolder(self.layout.home / "jobs" / job_id)

    def job(self, job_id: str, spec: dict[str, Any]) -> "Job":
        """A job as the control plane would make it, with its run; not submitted yet."""
        parsed = job_spec.validate_python(spec)
        folder = self.folder(job_id)
        folder.write_spec(parsed)
        run = self.tracking.create_run(job_id, parsed.name, parsed.kind, flat_params(parsed))
        return Job(self, job_id, parsed, folder, run)


@dataclass(frozen=True)
class Job:
    """A job on the real cluster."""

    services: Services
    id: str
    spec: TrainSpec | TuneSpec
    folder: JobFolder
    run: RunRef

    def start(self, attempt: int = 1) -> None:
        self.folder.write_control(Control(attempt=attempt))
        environment = {"MLFLOW_TRACKING_URI": self.services.mlflow.url, "SEQAE_RUN_ID": self.run.run_id}
        submission = Submission(self.id, attempt, self.spec.kind, self.folder.path, environment)
        self.services.launcher.submit(submission)

    def wait(self, attempt: int = 1) -> None:
        """Until the driver has ended."""
        name = submission_id(self.id, attempt)
        wait_until(lambda: self._has_ended(name), f"the end of {name}, in {self.folder.path}")

    def wait_for(self, condition: Callable[[], bool], attempt: int = 1) -> None:
        """Until something holds; fails when the driver ends first."""
        name = submission_id(self.id, attempt)

        def holds() -> bool:
            if self._has_ended(name):
                pytest.fail(self.log(attempt))
            return condition()

        wait_until(holds, f"what the test waits for in {name}")

    def wait_for_iteration(self, iteration: int, attempt: int = 1) -> None:
        def reached() -> bool:
            progress = self.folder.attempt(attempt).read_progress()
            return progress is not None and progress.phase == "training" and progress.iteration >= iteration

        self.wait_for(reached, attempt)

    def log(self, attempt: int = 1) -> str:
        """What the driver printed, or what Ray says of one that did not start."""
        own = self.folder.attempt(attempt).log
        return own.read_text() if own.exists() else self.services.launcher.logs(submission_id(self.id, attempt))

    def _has_ended(self, name: str) -> bool:
        state = self.services.launcher.state(name)
        return state is None or state.is_terminal()


@pytest.fixture(scope="session")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    made = Daemons(HomeLayout(tmp_path_factory.mktemp("home")))
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def tracking(daemons: Daemons) -> MlflowTracking:
    """A real MLflow server."""
    daemons.start(daemons.mlflow)
    daemons.wait(daemons.mlflow)
    return MlflowTracking(daemons.mlflow.url, daemons.layout.home / "models")


@pytest.fixture(scope="session")
def services(daemons: Daemons, tracking: MlflowTracking) -> Iterator[Services]:
    """A real Ray head beside it."""
    daemons.start(daemons.ray)
    with RayLauncher(daemons.ray.url, daemons.layout.token) as launcher:
        daemons.wait(daemons.ray, lambda: has_room(launcher))
        yield Services(daemons.layout, launcher, tracking, daemons.ray, daemons.mlflow)


@pytest.fixture(scope="session")
def control_plane(daemons: Daemons, services: Services) -> Iterator[Client]:
    """The control plane beside them, without a model."""
    environment = {**daemons.api.environment, "SEQAE_INFERENCE": "false"}
    part = replace(daemons.api, environment=environment)
    daemons.start(part)
    daemons.wait(part)
    with Client(part.url) as client:
        yield client


@pytest.fixture
def patiently() -> Callable[[Callable[[], bool], str], None]:
    """`wait_until`, for the tests."""
    return wait_until


@pytest.fixture
def tiny() -> dict[str, Any]:
    """40 iterations in 5 epochs, evaluated at 20 and 40, a checkpoint every 10; one worker."""
    return ON_A_CLUSTER
