"""A real Ray head and a real MLflow server, started once for all tests and gone afterwards."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from jobs.errors import LauncherUnavailable
from jobs.folder import Control, JobFolder
from jobs.launch import RunRef, Submission, submission_id
from jobs.provenance import flat_params
from jobs.ray_launcher import RayLauncher
from jobs.specs import TrainSpec, TuneSpec, job_spec
from jobs.tracking import MlflowTracking
from service import processes
from service.parts import PREFERRED_PORTS, Layout, Part, build_parts, free_port
from tests.tiny import TINY

_ON_A_CLUSTER: dict[str, Any] = TINY | {
    "data": TINY["data"] | {"train_scenes": 64},
    "schedule": {"batch_size": 8, "epochs": 5, "log_every": 2, "evaluate_every": 20, "checkpoint_every": 10},
}
"""40 iterations: long enough to be interrupted."""

_STARTS = 3


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 240.0) -> None:
    """Polls until something holds; fails with what it was when it never does. Patient: machines may be busy."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


@dataclass(frozen=True)
class Services:
    """What runs, and how it is reached."""

    layout: Layout
    launcher: RayLauncher
    tracking: MlflowTracking
    ray: Part
    mlflow: Part

    def actors(self) -> list[dict[str, Any]]:
        """Ray's living actors, those of its own job service left out."""
        query = {"detail": "true", "limit": "1000"}
        answer = httpx.get(
            f"{self.ray.url}/api/v0/actors", params=query, headers=self.ray.headers, timeout=10, trust_env=False
        )
        found = answer.json()["data"]["result"]["result"]
        return [actor for actor in found if actor["state"] != "DEAD" and actor["class_name"] != "JobSupervisor"]

    def job(self, job_id: str, spec: dict[str, Any]) -> "Job":
        """A job as the control plane would make it, with its run; not submitted yet."""
        parsed = job_spec.validate_python(spec)
        folder = JobFolder(self.layout.home / "jobs" / job_id)
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
                pytest.fail(self.services.launcher.logs(name))
            return condition()

        wait_until(holds, f"what the test waits for in {name}")

    def wait_for_iteration(self, iteration: int, attempt: int = 1) -> None:
        def reached() -> bool:
            progress = self.folder.attempt(attempt).read_progress()
            return progress is not None and progress.phase == "training" and progress.iteration >= iteration

        self.wait_for(reached, attempt)

    def _has_ended(self, name: str) -> bool:
        state = self.services.launcher.state(name)
        return state is None or state.is_terminal()


class Daemons:
    """Ray and MLflow, each started when it is first asked for."""

    def __init__(self, layout: Layout) -> None:
        layout.prepare()
        self.layout = layout
        ports: dict[str, int] = {}
        for name in PREFERRED_PORTS:
            ports[name] = free_port(None, set(ports.values()))
        self.ray, self.mlflow, _ = build_parts(layout, ports, None)
        self._started: dict[str, processes.Leader] = {}

    def start(self, part: Part) -> None:
        if part.before is not None:
            part.before()
        self._started[part.name] = _start(self.layout, part)

    def wait(self, part: Part, also: Callable[[], bool] = lambda: True) -> None:
        """Until it is ready. Ray gives up when its node needs over 30 s, as on a busy machine: it is started again."""
        starts = 1

        def ready() -> bool:
            nonlocal starts
            if not processes.alive(self._started[part.name], self.layout.mark(part.name)):
                if starts == _STARTS:
                    pytest.fail((self.layout.logs / f"{part.name}.log").read_text()[-2000:])
                self._end(part.name, grace=0.0)
                self.start(part)
                starts += 1
            return _is_ready(part) and also()

        wait_until(ready, f"{part.title} is ready", _STARTS * part.patience)

    def kill(self, part: Part) -> None:
        """SIGKILL, all of it at once."""
        self._end(part.name, grace=0.0)

    def end(self) -> None:
        for name in list(self._started):
            self._end(name, grace=5.0)
        shutil.rmtree(self.layout.ray_temp, ignore_errors=True)

    def _end(self, name: str, grace: float) -> None:
        leader = self._started.pop(name)
        processes.end(self.layout.mark(name), leader, grace=grace)
        assert processes.members(self.layout.mark(name), leader) == []


@pytest.fixture(scope="session")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    made = Daemons(Layout(tmp_path_factory.mktemp("home")))
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
        # The dashboard answers some time before there is a machine that could run anything.
        daemons.wait(daemons.ray, lambda: _has_room(launcher))
        yield Services(daemons.layout, launcher, tracking, daemons.ray, daemons.mlflow)


def _start(layout: Layout, part: Part) -> processes.Leader:
    environment = {**os.environ, **part.environment}
    log = layout.logs / f"{part.name}.log"
    return processes.start(part.command, environment, layout.mark(part.name), log, cwd=layout.logs)


def _has_room(launcher: RayLauncher) -> bool:
    try:
        return launcher.capacity().cpus > 0
    except LauncherUnavailable:
        return False


def _is_ready(part: Part) -> bool:
    try:
        answer = httpx.get(part.ready_url, headers=dict(part.headers), timeout=5, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == httpx.codes.OK


@pytest.fixture
def patiently() -> Callable[[Callable[[], bool], str], None]:
    """`wait_until`, for the tests."""
    return wait_until


@pytest.fixture
def tiny() -> dict[str, Any]:
    """40 iterations in 5 epochs, evaluated at 20 and 40, a checkpoint every 10; one worker."""
    return _ON_A_CLUSTER
