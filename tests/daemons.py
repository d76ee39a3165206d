"""A real Ray head, MLflow server and control plane of the tests' own, each started when it is first asked for."""

import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from jobs.errors import LauncherUnavailable
from jobs.interfaces import Launcher
from service.local import processes
from service.local.daemons import PREFERRED_PORTS, Daemon, DaemonName, HomeLayout, PortName, build_daemons, free_port

_STARTS = 3


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 240.0) -> None:
    """Polls until something holds; fails with what it was when it never does. Patient: machines may be busy."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


class Daemons:
    """Ray, MLflow and the control plane of one home folder, each started when it is first asked for."""

    def __init__(self, layout: HomeLayout) -> None:
        layout.prepare()
        self.layout = layout
        ports: dict[PortName, int] = {}
        for name in PREFERRED_PORTS:
            ports[name] = free_port(None, set(ports.values()))
        self.ray, self.mlflow, self.api = build_daemons(layout, ports, None)
        self._started: dict[DaemonName, processes.SessionLeader] = {}

    def start(self, part: Daemon) -> None:
        if part.before is not None:
            part.before()
        self._started[part.name] = _start(self.layout, part)

    def wait(self, part: Daemon, also: Callable[[], bool] = lambda: True) -> None:
        """Until it is ready. Ray gives up when its node needs over 30 s, as on a busy machine: it is started again."""
        starts = 1

        def ready() -> bool:
            nonlocal starts
            if not self._lives(part):
                if starts == _STARTS:
                    pytest.fail((self.layout.logs / f"{part.name}.log").read_text()[-2000:])
                self.revive(part)
                starts += 1
            return also() and _is_ready(part)

        wait_until(ready, f"{part.title} is ready", _STARTS * part.ready_timeout)

    def revive(self, part: Daemon) -> None:
        """Starts it again if it has died by itself, as a service manager would; not what a test keeps away."""
        if part.name in self._started and not self._lives(part):
            self._end(part.name, grace=0.0)
            self.start(part)

    def _lives(self, part: Daemon) -> bool:
        return processes.alive(self._started[part.name], self.layout.mark(part.name))

    def kill(self, part: Daemon) -> None:
        """SIGKILL, all of it at once."""
        self._end(part.name, grace=0.0)

    def forget(self, part: Daemon, spared: set[int]) -> None:
        """SIGKILL of all but the spared processes, which are left to themselves."""
        leader = self._started.pop(part.name)
        for process in processes.members(self.layout.mark(part.name), leader):
            if process.pid not in spared:
                process.kill()

    def end(self) -> None:
        for name in list(self._started):
            self._end(name, grace=5.0)
        shutil.rmtree(self.layout.ray_temp, ignore_errors=True)

    def _end(self, name: DaemonName, grace: float) -> None:
        leader = self._started.pop(name)
        processes.end(self.layout.mark(name), leader, grace=grace)
        assert processes.members(self.layout.mark(name), leader) == []


def ask_ray(head: Daemon, path: str, **query: str) -> Any:
    """The answer of Ray's dashboard, parsed."""
    try:
        answer = httpx.get(head.url + path, params=query, headers=dict(head.headers), timeout=60, trust_env=False)
        return answer.raise_for_status().json()
    except httpx.HTTPError as error:
        raise AssertionError(f"Ray does not say {path}: {error}") from error


def ray_state(head: Daemon, what: str) -> list[dict[str, Any]]:
    """All "actors" or "placement_groups" that Ray knows, dead ones too."""
    answer = ask_ray(head, f"/api/v0/{what}", detail="true", limit="1000")
    return list(answer["data"]["result"]["result"])


def living_actors(head: Daemon) -> list[dict[str, Any]]:
    """Those of Ray's own job service left out."""
    found = ray_state(head, "actors")
    return [actor for actor in found if actor["state"] != "DEAD" and actor["class_name"] != "JobSupervisor"]


def has_room(launcher: Launcher) -> bool:
    """The dashboard answers some time before there is a machine that could run anything."""
    try:
        return launcher.capacity().cpus > 0
    except LauncherUnavailable:
        return False


def _start(layout: HomeLayout, part: Daemon) -> processes.SessionLeader:
    environment = {**os.environ, **part.environment}
    log = layout.logs / f"{part.name}.log"
    return processes.start(part.command, environment, layout.mark(part.name), log, cwd=layout.logs)


def _is_ready(part: Daemon) -> bool:
    try:
        answer = httpx.get(part.ready_url, headers=dict(part.headers), timeout=5, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == httpx.codes.OK
