"""Deployment of the whole service as separate processes: PostgreSQL, Ray, MLflow and the control plane.

Each of them can be killed, and is started again by the test, as a service manager or a container engine would.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import TypeVar

import psutil

from jobs.backends.mlflow import MlflowTracking
from jobs.backends.ray import RayLauncher
from jobs.interfaces import submission_id
from service.client import Client
from service.db.models import JobRow
from service.db.store import Store
from service.errors import ApiError, StoreUnavailableError
from service.job_state import ENDED, State
from service.local import processes
from service.local.daemons import Daemon
from tests.daemons import Daemons
from tests.daemons import wait_until as _wait_until
from tests.postgres import PostgresServer

__all__ = ["Component", "Deployment", "running", "wait_until"]

AnswerT = TypeVar("AnswerT")


class Component(StrEnum):
    """What can be killed."""

    API = "api"
    WORKER = "worker"
    """A process that trains."""
    DRIVER = "driver"
    """The process of an attempt, which starts workers."""
    HEAD = "head"
    """Ray, with all that it runs."""
    MLFLOW = "mlflow"
    DATABASE = "database"


_SETTINGS = {
    "SEQAE_SWEEP_EVERY": "5",
    "SEQAE_RETRY_WAIT": "0.5",
    "SEQAE_INFERENCE": "false",
    "SEQAE_MAX_RETRIES": "10",  # for a full disk, which counts as the job's own error
}
"""Of the control plane: leftovers are swept often; everything else is as people get it."""


wait_until = partial(_wait_until, seconds=600.0)
"""`tests.daemons.wait_until` with a longer time-out: what was killed takes its time to come back."""


class Deployment:
    """Running processes of the whole service, and how to kill them.

    Args:
        daemons: Ray, MLflow and the control plane of a home folder of their own, not started yet.
        database: a PostgreSQL server.
    """

    def __init__(self, daemons: Daemons, database: PostgresServer) -> None:
        self.daemons = daemons
        self.database = database
        self.home = daemons.layout.home
        self.jobs_dir = self.home / "jobs"
        environment = {**daemons.api.environment, **_SETTINGS, "SEQAE_DATABASE_URL": database.url}
        self._daemons: Mapping[Component, Daemon] = {
            Component.HEAD: daemons.ray,
            Component.MLFLOW: daemons.mlflow,
            Component.API: replace(daemons.api, environment=environment),
        }
        self.store = Store(database.url)
        self.launcher = RayLauncher(daemons.ray.url, daemons.layout.token)
        self.tracking = MlflowTracking(daemons.mlflow.url, self.home / "models")

    def start(self) -> None:
        """Starts all daemons, and waits until they are ready."""
        for component in (Component.MLFLOW, Component.HEAD, Component.API):
            self.daemons.start(self._daemons[component])
        for component in self._daemons:
            self._wait(component)

    def close(self) -> None:
        """Closes the connections of the test itself."""
        self.launcher.close()
        self.store.close()

    def processes_left(self) -> list[psutil.Process]:
        """Processes of the daemons, whoever started them."""
        marks = [self.daemons.layout.mark(daemon.name) for daemon in self._daemons.values()]
        return [process for mark in marks for process in processes.members(mark, None)]

    # --- killing and starting again

    def kill(self, component: Component, job_id: str | None = None) -> bool:
        """Sends SIGKILL.

        Args:
            component: what to kill.
            job_id: whose driver or worker; None: any job's.

        Returns:
            False where there is no such driver or worker now.
        """
        if component in self._daemons:
            self.daemons.kill(self._daemons[component])
        elif component is Component.DATABASE:
            self.database.kill()
        else:
            victim = self.driver(job_id) if component is Component.DRIVER else self.worker(job_id)
            if victim is None:
                return False
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                return False
        return True

    def kill_head_but(self, spared: set[int]) -> None:
        """Sends SIGKILL to all processes of Ray but some, by pid."""
        self.daemons.kill_all_but(self._daemons[Component.HEAD], spared)

    def restart(self, component: Component) -> None:
        """Starts what was killed, and waits until it answers. Drivers and workers are started by the service."""
        if component is Component.DATABASE:
            self.database.start()
        elif component in self._daemons:
            self.daemons.start(self._daemons[component])
            self._wait(component)

    def revive(self) -> None:
        """Starts what has ended by itself: Ray gives up when a busy machine takes over 30 s to register its node."""
        for daemon in self._daemons.values():
            self.daemons.revive(daemon)

    def _wait(self, component: Component) -> None:
        def others_run() -> bool:
            self.revive()
            return True

        if component is Component.HEAD:
            self.daemons.wait_for_ray(self.launcher, others_run)
        else:
            self.daemons.wait(self._daemons[component], others_run)

    # --- processes of jobs

    def drivers(self) -> dict[str, psutil.Process]:
        """Processes of drivers, by job."""
        found = {}
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if "--job-dir" in line and any(word.startswith("jobs.") for word in line):
                folder = line[line.index("--job-dir") + 1]
                if folder.startswith(str(self.jobs_dir)):
                    found[folder.rpartition("/")[2]] = process
        return found

    def driver(self, job_id: str | None) -> psutil.Process | None:
        """The driver of a job, or any; None where there is none now."""
        found = self.drivers()
        return next(iter(found.values()), None) if job_id is None else found.get(job_id)

    def worker(self, job_id: str | None) -> psutil.Process | None:
        """A process that trains a job, or any; None where there is none now."""
        submissions = self.daemons.dashboard.submissions()
        for actor in self.daemons.dashboard.actors():
            owner = submissions.get(actor["job_id"]) or ""
            mine = job_id is None or owner == submission_id(job_id, self.store.job(job_id).attempt)
            if "Worker" in actor["class_name"] and actor["pid"] and mine:
                return psutil.Process(actor["pid"])
        return None

    # --- jobs

    def ask(self, call: Callable[[Client], AnswerT]) -> AnswerT:
        """Calls the API until it answers, for two minutes. Calls must be idempotent.

        Raises:
            ApiError: it answers with a client's error, or not at all.
        """
        deadline = time.monotonic() + 120
        while True:
            try:
                with Client(self._daemons[Component.API].url) as client:
                    return call(client)
            except ApiError as error:
                passing = error.status is None or error.status >= 500
                if not passing or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def rows(self, ids: list[str]) -> dict[str, JobRow]:
        """The jobs' rows, read beside the API; waits for the database."""
        while True:
            try:
                return dict(self.store.jobs(ids))
            except StoreUnavailableError:
                time.sleep(0.1)

    def state(self, job_id: str) -> State:
        """The job's state, read beside the API."""
        return self.rows([job_id])[job_id].state

    def all_ended(self, ids: list[str]) -> bool:
        """Whether the jobs have ended and are cleaned up; daemons that ended by themselves are started again."""
        self.revive()
        return all(row.state in ENDED and row.cleaned_up for row in self.rows(ids).values())


@contextmanager
def running(daemons: Daemons, database: PostgresServer) -> Iterator[Deployment]:
    """A deployment that runs; no process of it is left afterwards."""
    deployment = Deployment(daemons, database)
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.close()
        daemons.end()
        assert deployment.processes_left() == [], "no process of ours outlives the test"
