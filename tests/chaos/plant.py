"""The whole service as separate processes: PostgreSQL, Ray, MLflow and the control plane, each of which can be killed.

A part that was killed is started again by the test, as a service manager or a container engine would.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

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
from tests.daemons import Daemons, ask_ray, has_room, living_actors, ray_state
from tests.daemons import wait_until as _wait_until
from tests.postgres import PostgresServer

PARTS = ("api", "worker", "driver", "head", "mlflow", "database")
"""What can be killed."""

_SETTINGS = {
    "SEQAE_SWEEP_EVERY": "5",
    "SEQAE_RETRY_WAIT": "0.5",
    "SEQAE_INFERENCE": "false",
    "SEQAE_MAX_RETRIES": "10",  # for a full disk, which counts as the job's own error
}
"""Of the control plane: leftovers are swept often; everything else is as people get it."""


wait_until = partial(_wait_until, seconds=600.0)
"""More patient than elsewhere: parts that were killed take their time to come back."""


class Plant:
    """Everything that runs, and how to break it.

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
        self.parts: Mapping[str, Daemon] = {
            "head": daemons.ray,
            "mlflow": daemons.mlflow,
            "api": replace(daemons.api, environment=environment),
        }
        self.store = Store(database.url)
        self.launcher = RayLauncher(daemons.ray.url, daemons.layout.token)
        self.tracking = MlflowTracking(daemons.mlflow.url, self.home / "models")

    def start(self) -> None:
        for name in ("mlflow", "head", "api"):
            self.daemons.start(self.parts[name])
        for name in self.parts:
            self._wait(name)

    def close(self) -> None:
        self.launcher.close()
        self.store.close()

    # --- breaking it

    def kill(self, part: str, job_id: str | None = None) -> bool:
        """SIGKILL. A driver or a worker is that of a job, or of any; False where there is none now."""
        if part in self.parts:
            self.daemons.kill(self.parts[part])
        elif part == "database":
            self.database.kill()
        else:
            victim = self.driver(job_id) if part == "driver" else self.worker(job_id)
            if victim is None:
                return False
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                return False
        return True

    def kill_all_but(self, part: str, spared: set[int]) -> None:
        """SIGKILL of a part's processes but these; what is spared belongs to no part any more."""
        self.daemons.forget(self.parts[part], spared)

    def bring_back(self, part: str) -> None:
        """Starts it again, and waits until it answers. Drivers and workers come back by themselves."""
        if part == "database":
            self.database.start()
        elif part in self.parts:
            self.daemons.start(self.parts[part])
            self._wait(part)

    def revive(self) -> None:
        """Starts what has died by itself: Ray gives up when a busy machine takes over 30 s to register its node."""
        for part in self.parts.values():
            self.daemons.revive(part)

    def _wait(self, name: str) -> None:
        def whole() -> bool:
            self.revive()
            return name != "head" or has_room(self.launcher)

        self.daemons.wait(self.parts[name], whole)

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
        found = self.drivers()
        return next(iter(found.values()), None) if job_id is None else found.get(job_id)

    def worker(self, job_id: str | None) -> psutil.Process | None:
        """A process that trains."""
        known = ask_ray(self.daemons.ray, "/api/jobs/")
        ray_jobs = {job["job_id"]: job["submission_id"] for job in known if job["job_id"]}
        for actor in self.actors():
            owner = ray_jobs.get(actor["job_id"]) or ""
            mine = job_id is None or owner == submission_id(job_id, self.store.job(job_id).attempt)
            if "Worker" in actor["class_name"] and actor["pid"] and mine:
                return psutil.Process(actor["pid"])
        return None

    # --- looking at it

    def client(self) -> Client:
        return Client(self.parts["api"].url)

    def ask(self, call: Callable[[Client], Any]) -> Any:
        """Calls the API until it answers, as a patient user would. Calls are idempotent."""
        deadline = time.monotonic() + 120
        while True:
            try:
                with self.client() as client:
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
        return self.rows([job_id])[job_id].state

    def all_ended(self, ids: list[str]) -> bool:
        self.revive()
        return all(row.state in ENDED and row.cleaned_up for row in self.rows(ids).values())

    def actors(self) -> list[dict[str, Any]]:
        """Ray's living actors, those of its own job service left out."""
        return living_actors(self.daemons.ray)

    def placement_groups(self) -> list[dict[str, Any]]:
        return [group for group in ray_state(self.daemons.ray, "placement_groups") if group["state"] != "REMOVED"]


@contextmanager
def running(daemons: Daemons, database: PostgresServer) -> Iterator[Plant]:
    """A plant that runs; nothing of it is left afterwards."""
    plant = Plant(daemons, database)
    try:
        plant.start()
        yield plant
    finally:
        plant.close()
        daemons.end()
        left = [process for part in plant.parts.values() for process in _left(daemons, part)]
        assert left == [], "no process of ours outlives the test"


def _left(daemons: Daemons, part: Daemon) -> list[psutil.Process]:
    return processes.members(daemons.layout.mark(part.name), None)
