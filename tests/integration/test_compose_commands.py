"""Containers of docker-compose.yml's small profile as plain processes: the same command, environment, health check.

There is no engine here: paths lead into a folder of the test, ports are free ones, and names of containers are this
machine's loopback.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.local import processes
from service.local.ports import free_port
from tests.daemons import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PORTS = ("5000", "6379", "8265", "8400")


class Containers:
    """The containers of the small profile, each started when the test says so.

    Args:
        home: in place of the volume.
        temp: in place of a container's own /tmp; its path is short, for sockets.
    """

    def __init__(self, home: Path, temp: Path) -> None:
        self.home = home
        self._temp = temp
        self._services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        taken: set[int] = set()
        self.ports: dict[str, str] = {}
        for port in PORTS:
            found = free_port(None, taken)
            taken.add(found)
            self.ports[port] = str(found)

    def _here(self, text: str) -> str:
        text = text.replace("$$", "$").replace("/var/lib/seqae", str(self.home))
        text = re.sub(r"http://(mlflow|ray):", "http://127.0.0.1:", text)
        return re.sub(rf"(?<!\d)({'|'.join(PORTS)})(?!\d)", lambda found: self.ports[found.group()], text)

    def _environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        dockerfile = (ROOT / "deploy/Dockerfile").read_text()
        (block,) = re.findall(r"^ENV ((?:.*\\\n|\s*#.*\n)*.*)$", dockerfile, re.MULTILINE)
        image = dict(re.findall(r"^(?:\s*)(\w+)=(\S+)", block, re.MULTILINE))
        own = {name: str(value) for name, value in service.get("environment", {}).items()}
        here = {name: self._here(value) for name, value in {**image, **own}.items()}
        tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        user = {"PATH": tools, "HOME": str(self._temp), "TMPDIR": str(self._temp), "RAY_TMPDIR": str(self._temp)}
        here = {name: re.sub(r"^/tmp(?=/)", str(self._temp), value) for name, value in here.items()}
        return {**user, "PYTHONPATH": str(ROOT), **here}

    def run(self, name: str) -> None:
        """Runs a container that ends by itself."""
        service = self._services[name]
        words = [self._here(word) for word in service["command"]]
        done = subprocess.run(words, env=self._environment(service), cwd=self._temp, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr.decode()

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """A container that is healthy by its own check; ended within the time that it is given."""
        service, log = self._services[name], self._temp / f"{name}.log"
        words = [self._here(word) for word in service["command"]]
        environment, mark = self._environment(service), f"compose-{os.getpid()}:{name}"
        leader = processes.start(words, environment, mark, log, cwd=self._temp)
        try:
            kind, *check = (self._here(word) for word in service["healthcheck"]["test"])
            assert kind == "CMD"

            def is_healthy() -> bool:
                assert processes.alive(leader, mark), log.read_text()[-2000:]
                return subprocess.run(check, env=environment, capture_output=True, timeout=60).returncode == 0

            wait_until(is_healthy, f"{name} is healthy")
            yield
        finally:
            processes.end(mark, leader, grace=20)


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[Containers]:
    with tempfile.TemporaryDirectory(prefix="c-", dir="/tmp") as temp:
        home = tmp_path / "volume"
        home.mkdir(mode=0o700)
        yield Containers(home, Path(temp))


def test_setup_mlflow_and_the_control_plane(containers: Containers) -> None:
    """Jobs can be taken without Ray; who has no token is let in nowhere."""
    containers.run("setup")
    secret = (containers.home / "admin.token").read_text().strip()
    containers.run("setup")
    assert (containers.home / "admin.token").read_text().strip() == secret
    assert (containers.home / "ray.token").stat().st_mode & 0o777 == 0o600
    with containers.running("mlflow"), containers.running("api"):
        url = f"http://127.0.0.1:{containers.ports['8400']}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SEQAE_URL": url}
        command = [sys.executable, "-m", "service.cli.main", "jobs", "--json"]
        for token, status in (("", 1), (secret, 0)):
            told = {**environment, "SEQAE_TOKEN": token}
            assert subprocess.run(command, env=told, capture_output=True, timeout=60).returncode == status


def test_the_ray_head(containers: Containers) -> None:
    containers.run("setup")
    with containers.running("ray"):
        assert list(containers._temp.glob("ray/session_*")), "in its own folder"
