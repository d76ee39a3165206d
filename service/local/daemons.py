"""Definitions of the stack's three daemons: command, environment, ports and health check of each."""

import hashlib
import importlib.metadata
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

from service.errors import StackError
from service.local.processes import MARK, shielded

__all__ = [
    "HOST",
    "PREFERRED_PORTS",
    "Daemon",
    "DaemonName",
    "HomeLayout",
    "PortName",
    "build_daemons",
    "free_port",
    "is_free",
]

HOST = "127.0.0.1"


class DaemonName(StrEnum):
    """The daemons of the stack, as stack.json and the log files name them."""

    RAY = "ray"
    MLFLOW = "mlflow"
    API = "api"


class PortName(StrEnum):
    """The ports of the stack, as stack.json names them; a daemon's main port has the daemon's name."""

    RAY = "ray"
    """Of Ray's dashboard, which takes jobs."""
    MLFLOW = "mlflow"
    API = "api"
    RAY_GCS = "ray_gcs"
    """Of Ray's head."""
    RAY_CLIENT = "ray_client"
    """Of Ray's client server."""


PREFERRED_PORTS: Mapping[PortName, int | None] = {
    PortName.RAY: 8402,
    PortName.MLFLOW: 8401,
    PortName.API: 8400,
    PortName.RAY_GCS: None,
    PortName.RAY_CLIENT: None,
}
"""Tried first where no port was configured; None: any free one."""

_OBJECT_STORE_BYTES = 150_000_000  # training reads its data from files, so little goes through the object store
_TRIAL_DRIVERS = 16


@dataclass(frozen=True)
class HomeLayout:
    """Paths of one home folder's stack, all absolute."""

    home: Path

    @property
    def state(self) -> Path:
        """Record of the ports and processes of the stack."""
        return self.home / "stack.json"

    @property
    def lock(self) -> Path:
        """Lock file: held while the stack is started or ended."""
        return self.home / "stack.lock"

    @property
    def logs(self) -> Path:
        """Folder with the output of each daemon, in `<name>.log`."""
        return self.home / "logs"

    @property
    def token(self) -> Path:
        """Ray's authentication token, readable by its owner alone."""
        return self.home / "ray.token"

    @property
    def key(self) -> str:
        """Short name of this home, for the processes' marks and for paths that must be short."""
        return hashlib.sha256(str(self.home).encode()).hexdigest()[:10]

    @property
    def ray_temp(self) -> Path:
        """Folder of Ray's sockets and logs."""
        # Sockets below it have paths of at most 107 bytes, so it can't be inside the home folder.
        return Path(tempfile.gettempdir()) / f"seqae-{self.key}"

    @property
    def mlflow_database(self) -> Path:
        """SQLite database of the tracking server."""
        return self.home / "mlflow" / "mlflow.db"

    def mark(self, daemon: DaemonName) -> str:
        """Value of the environment variable that the processes of a daemon carry, see `processes.MARK`."""
        return f"{self.key}:{daemon}"

    def prepare(self) -> None:
        """Makes the folders, and Ray's token.

        Raises:
            StackError: Ray's folder belongs to another user.
        """
        for folder in (self.home, self.logs, self.home / "mlflow", self.home / "jobs", self.home / "control"):
            folder.mkdir(parents=True, exist_ok=True)
        self.ray_temp.mkdir(mode=0o700, exist_ok=True)
        if self.ray_temp.stat().st_uid != os.getuid():
            raise StackError(f"{self.ray_temp} belongs to another user; remove it, or use another home folder")
        if not self.token.exists():
            handle = os.open(self.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(32))


@dataclass(frozen=True)
class Daemon:
    """How to start one daemon, and how to see that it is ready."""

    name: DaemonName
    title: str
    """Its name for people."""
    command: tuple[str, ...]
    url: str
    """Where people and programs reach it."""
    ready_url: str
    """Answers 200 once it does its work."""
    ports: tuple[int, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it gets besides this process's own variables."""
    headers: Mapping[str, str] = field(default_factory=dict)
    ready_timeout: float = 180.0
    """Longest wait for it, in seconds; a loaded machine takes ten times what an idle one does."""
    before: Callable[[], None] | None = None
    """Has to be done before it starts."""
    tries: int = 1
    """Starts until it is given up."""
    grace: float = 8.0
    """Seconds that it has for an orderly end. Ray would take half a minute after a job, to no one's good."""


def _executable(name: str) -> str:
    """A program that was installed beside this interpreter, whatever PATH says."""
    return str(Path(sys.executable).parent / name)


def _mlflow(layout: HomeLayout, ports: Mapping[PortName, int]) -> Daemon:
    """The tracking server, on SQLite, with its artifacts below the home folder."""
    url = f"http://{HOST}:{ports[PortName.MLFLOW]}"
    return Daemon(
        name=DaemonName.MLFLOW,
        title="MLflow",
        command=(
            *(_executable("mlflow"), "server", "--host", HOST, "--port", str(ports[PortName.MLFLOW]), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{layout.mlflow_database}"),
            *("--serve-artifacts", "--artifacts-destination", str(layout.home / "mlflow" / "artifacts")),
        ),
        environment=_mlflow_environment(),
        url=url,
        ready_url=f"{url}/health",
        ports=(ports[PortName.MLFLOW],),
        before=partial(_upgrade_mlflow, layout),
    )


def _mlflow_environment() -> dict[str, str]:
    # Without the first it starts eight more processes, for a kind of job that nothing here uses.
    return {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


def _upgrade_mlflow(layout: HomeLayout) -> None:
    """Brings MLflow's tables to the installed version, before any process opens them: two at once leave them half made.

    Raises:
        StackError: the upgrade failed.
    """
    done = layout.home / "mlflow" / "schema"
    version = importlib.metadata.version("mlflow")
    if layout.mlflow_database.exists() and done.exists() and done.read_text() == version:
        return
    if layout.mlflow_database.exists():
        # Half an upgrade can't be repaired, so Ctrl-C waits for it.
        with shielded():
            _run_upgrade(layout, layout.mlflow_database)
    else:
        # A new one gets its name when it is whole.
        new = layout.mlflow_database.with_suffix(".new")
        new.unlink(missing_ok=True)
        _run_upgrade(layout, new)
        new.rename(layout.mlflow_database)
    done.write_text(version)


def _run_upgrade(layout: HomeLayout, database: Path) -> None:
    log = layout.logs / "mlflow.log"
    command = [_executable("mlflow"), "db", "upgrade", f"sqlite:///{database}"]
    environment = {**os.environ, **_mlflow_environment(), MARK: layout.mark(DaemonName.MLFLOW)}
    with log.open("ab") as output:
        done = subprocess.run(
            command, env=environment, cwd=layout.logs, stdout=output, stderr=output, start_new_session=True
        )
    if done.returncode:
        raise StackError(f"MLflow's database could not be upgraded (exit status {done.returncode}); see {log}")


def _ray(layout: HomeLayout, ports: Mapping[PortName, int]) -> Daemon:
    """The head of a Ray cluster of one machine, with the dashboard that takes jobs."""
    url = f"http://{HOST}:{ports[PortName.RAY]}"
    return Daemon(
        name=DaemonName.RAY,
        title="Ray",
        command=(
            *(_executable("ray"), "start", "--head", "--block", "--disable-usage-stats", "--log-style", "record"),
            *("--node-ip-address", HOST, "--port", str(ports[PortName.RAY_GCS])),
            *("--include-dashboard", "true", "--dashboard-host", HOST, "--dashboard-port", str(ports[PortName.RAY])),
            *("--ray-client-server-port", str(ports[PortName.RAY_CLIENT]), "--dashboard-agent-listen-port", "0"),
            # 0: the system picks; the default is a fixed range in which two clusters on a machine collide.
            *("--min-worker-port", "0", "--max-worker-port", "0"),
            *("--temp-dir", str(layout.ray_temp), "--object-store-memory", str(_OBJECT_STORE_BYTES)),
            # Two workers must fit on the smallest machine; there they share its core.
            *("--num-cpus", str(max(2, os.cpu_count() or 1))),
            # A search's trials are driven by tasks that need no CPU but wait for workers that do.
            *("--resources", json.dumps({"trial_driver": _TRIAL_DRIVERS})),
        ),
        environment=_ray_environment(layout),
        url=url,
        ready_url=f"{url}/api/jobs/",
        headers={"Authorization": f"Bearer {layout.token.read_text().strip()}"},
        ports=(ports[PortName.RAY], ports[PortName.RAY_GCS], ports[PortName.RAY_CLIENT]),
        # It gives itself up when its node takes more than 30 s to register, as happens on a busy machine.
        tries=3,
    )


def _ray_environment(layout: HomeLayout) -> dict[str, str]:
    return {
        # Jobs call for "python": the one that runs the stack.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(layout.token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Its name notwithstanding: without it Ray turns a loopback address into that of the network card, on Linux.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # A fast end of a run: the default polls workers every two seconds.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    }


def _api(layout: HomeLayout, ports: Mapping[PortName, int], data_dir: Path | None) -> Daemon:
    """The control plane."""
    url = f"http://{HOST}:{ports[PortName.API]}"
    environment = {
        "SEQAE_HOME": str(layout.home),
        "SEQAE_HOST": HOST,
        "SEQAE_PORT": str(ports[PortName.API]),
        "SEQAE_MLFLOW_URL": f"http://{HOST}:{ports[PortName.MLFLOW]}",
        "SEQAE_RAY_URL": f"http://{HOST}:{ports[PortName.RAY]}",
        "SEQAE_RAY_TOKEN_FILE": str(layout.token),
    }
    if data_dir is not None:
        environment["SEQAE_DATA_DIR"] = str(data_dir)
    return Daemon(
        name=DaemonName.API,
        title="control plane",
        command=(sys.executable, "-m", "service"),
        environment={**environment, **_ray_environment(layout), **_mlflow_environment()},
        url=url,
        ready_url=f"{url}/readyz",
        ports=(ports[PortName.API],),
        grace=15.0,
    )


def build_daemons(layout: HomeLayout, ports: Mapping[PortName, int], data_dir: Path | None) -> tuple[Daemon, ...]:
    """Ray, MLflow and the control plane, in the order in which they are started; they end the other way round.

    Args:
        layout: with its folders made.
        ports: for every name in PREFERRED_PORTS.
        data_dir: the user's own data.
    """
    return (_ray(layout, ports), _mlflow(layout, ports), _api(layout, ports, data_dir))


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(preferred: int | None, taken: set[int]) -> int:
    """The preferred port, or another one that is free and not in `taken`.

    Raises:
        StackError: none is free.
    """
    # Below the range from which systems draw ports for outgoing connections: those could take it before we do.
    candidates = random.sample(range(20_000, 32_000), 100)
    for port in candidates if preferred is None else [preferred, *candidates]:
        if port not in taken and is_free(port):
            return port
    raise StackError(f"found no free port on {HOST}")
