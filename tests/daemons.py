"""Daemons of an embedded stack (Ray head, MLflow server, control plane), started and killed one by one by tests."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from jobs.errors import LauncherUnavailable
from jobs.interfaces import Launcher
from service.local import processes
from service.local.daemons import Daemon, build_daemons
from service.local.home import DaemonName, HomeLayout
from service.local.ports import PREFERRED_PORTS, PortName, free_port

__all__ = ["Daemons", "RayDashboard", "wait_until"]

_STARTS = 3


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 240.0) -> None:
    """Polls until a condition holds; fails the test, naming `what`, when it does not in time.

    The time-out is long since machines may be busy.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


@dataclass(frozen=True)
class RayDashboard:
    """HTTP API of a Ray head's dashboard."""

    url: str
    headers: Mapping[str, str]

    def get(self, path: str, **query: str) -> Any:
        """The parsed answer. Raises: AssertionError when there is none."""
        try:
            answer = httpx.get(self.url + path, params=query, headers=dict(self.headers), timeout=60, trust_env=False)
            return answer.raise_for_status().json()
        except httpx.HTTPError as error:
            raise AssertionError(f"Ray does not answer {path}: {error}") from error

    def actors(self, *, supervisors: bool = False) -> list[dict[str, Any]]:
        """Actors that are not dead; those of Ray's own job service, one a driver, only with `supervisors`.

        Ray Train's coordinator is left out: a cluster has one, which needs no CPU and serves every driver on it.
        """
        found = (actor for actor in self._state("actors") if actor["state"] != "DEAD")
        left_out = {"_AutoscalingCoordinatorActor"} | (set() if supervisors else {"JobSupervisor"})
        return [actor for actor in found if actor["class_name"] not in left_out]

    def placement_groups(self) -> list[dict[str, Any]]:
        """Placement groups that are not removed."""
        return [group for group in self._state("placement_groups") if group["state"] != "REMOVED"]

    def submissions(self) -> dict[str, str]:
        """Submission ids of jobs, by Ray's own ids."""
        return {job["job_id"]: job["submission_id"] for job in self.get("/api/jobs/") if job["job_id"]}

    def _state(self, what: str) -> list[dict[str, Any]]:
        answer = self.get(f"/api/v0/{what}", detail="true", limit="1000")
        return list(answer["data"]["result"]["result"])


class Daemons:
    """Ray, MLflow and the control plane of one home folder, each started when the test says so.

    Args:
        layout: of the home folder.
    """

    def __init__(self, layout: HomeLayout) -> None:
        layout.prepare()
        self.layout = layout = layout.with_ray_temp()
        ports: dict[PortName, int] = {}
        for name in PREFERRED_PORTS:
            ports[name] = free_port(None, set(ports.values()))
        self.ray, self.mlflow, self.api = build_daemons(layout, ports, None)
        self.dashboard = RayDashboard(self.ray.url, self.ray.headers)
        self._started: dict[DaemonName, processes.SessionLeader] = {}

    def start(self, daemon: Daemon) -> None:
        """Starts a daemon without waiting for it."""
        if daemon.before is not None:
            daemon.before()
        self._started[daemon.name] = _start(self.layout, daemon)

    def wait(self, daemon: Daemon, also: Callable[[], bool] = lambda: True) -> None:
        """Waits until a daemon is ready, and `also` holds.

        Ray gives up when its node needs over 30 s, as on a busy machine: what has ended by itself is started again.
        """
        starts = 1

        def ready() -> bool:
            nonlocal starts
            if not self._is_alive(daemon):
                if starts == _STARTS:
                    pytest.fail((self.layout.logs / f"{daemon.name}.log").read_text()[-2000:])
                self.revive(daemon)
                starts += 1
            return also() and daemon.health_problem() is None

        wait_until(ready, f"{daemon.title} is ready", _STARTS * daemon.ready_timeout)

    def wait_for_ray(self, launcher: Launcher, also: Callable[[], bool] = lambda: True) -> None:
        """Waits until Ray can run something: its dashboard answers some time before there is a node."""
        self.wait(self.ray, lambda: also() and _has_room(launcher))

    def revive(self, daemon: Daemon) -> None:
        """Starts a daemon again if it has ended by itself, as a service manager would; not one that a test killed."""
        if daemon.name in self._started and not self._is_alive(daemon):
            self._end(daemon.name, grace=0.0)
            self.start(daemon)

    def kill(self, daemon: Daemon) -> None:
        """Sends SIGKILL to all processes of a daemon at once."""
        self._end(daemon.name, grace=0.0)

    def kill_all_but(self, daemon: Daemon, spared: set[int]) -> None:
        """Sends SIGKILL to all processes of a daemon but some, by pid, which belong to no daemon afterwards."""
        leader = self._started.pop(daemon.name)
        for process in processes.members(self.layout.mark(daemon.name), leader):
            if process.pid not in spared:
                process.kill()

    def end(self) -> None:
        """Ends all daemons that were started, and removes Ray's folder."""
        for name in list(self._started):
            self._end(name, grace=5.0)
        shutil.rmtree(self.layout.ray_temp, ignore_errors=True)

    def _is_alive(self, daemon: Daemon) -> bool:
        return processes.alive(self._started[daemon.name], self.layout.mark(daemon.name))

    def _end(self, name: DaemonName, grace: float) -> None:
        leader = self._started.pop(name)
        processes.end(self.layout.mark(name), leader, grace=grace)
        assert processes.members(self.layout.mark(name), leader) == []


def _start(layout: HomeLayout, daemon: Daemon) -> processes.SessionLeader:
    environment = {**os.environ, **daemon.environment}
    log = layout.logs / f"{daemon.name}.log"
    return processes.start(daemon.command, environment, layout.mark(daemon.name), log, cwd=daemon.cwd)


def _has_room(launcher: Launcher) -> bool:
    try:
        return launcher.capacity().cpus > 0
    except LauncherUnavailable:
        return False
