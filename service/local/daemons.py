"""Definitions of the stack's three daemons: command, environment, ports and health check of each."""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
from pydantic import ValidationError

from jobs.backends.loopback import loopback_unproxied
from jobs.telemetry.log_records import FORMAT_VARIABLE, LogFormat, format_named
from service.errors import StackError
from service.local.home import DaemonName, HomeLayout
from service.local.node_addresses import join_address
from service.local.ports import HOST, PortName
from service.local.processes import MARK, open_log, shielded
from service.schemas.health import Readiness

__all__ = ["NODE_OPTIONS", "Daemon", "build_daemons", "executable", "http_url", "ray_environment"]

_ANSWER_SECONDS = 10.0  # the control plane asks the others before it answers
_LONGEST_TEMP = 60
"""Characters of a folder for temporary files below which the sockets of Python's own libraries have room."""

_OBJECT_STORE_BYTES = 150_000_000  # training reads its data from files, so little goes through the object store
NODE_OPTIONS = (
    *("--disable-usage-stats", "--log-style", "record", "--dashboard-agent-listen-port", "0"),
    # 0: the system picks; the default is a fixed range in which two clusters on a machine collide.
    *("--min-worker-port", "0", "--max-worker-port", "0"),
    *("--object-store-memory", str(_OBJECT_STORE_BYTES)),
)
"""Options of `ray start` on every machine of a cluster."""
_TRIAL_DRIVERS = 16
_MLFLOW_LOGGING = Path(__file__).parent / "mlflow_logging.json"
"""Configuration of the loggers of MLflow's server for logs in JSON."""


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
    cwd: Path
    """A folder without anything that Python could import in place of a package."""
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
    judge: Callable[[httpx.Response], str | None] = lambda _: None
    """What is wrong although it answers 200; None: nothing."""

    def health_problem(self) -> str | None:
        """Health check: None when the daemon is ready, else what is wrong, in a line."""
        try:
            # A proxy from the environment has no way to this machine's loopback.
            answer = httpx.get(self.ready_url, headers=dict(self.headers), timeout=_ANSWER_SECONDS, trust_env=False)
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        return self.judge(answer) or (None if answer.status_code == httpx.codes.OK else f"answers {answer.status_code}")


def http_url(port: int) -> str:
    """Where a daemon of the stack is reached."""
    return str(httpx.URL(scheme="http", host=HOST, port=port))


def executable(name: str) -> str:
    """A program that was installed beside this interpreter, whatever PATH says."""
    return str(Path(sys.executable).parent / name)


def _mlflow(layout: HomeLayout, ports: Mapping[PortName, int]) -> Daemon:
    """The tracking server, on SQLite, with its artifacts below the home folder."""
    url = http_url(ports[PortName.MLFLOW])
    in_json = format_named(os.environ.get(FORMAT_VARIABLE)) is LogFormat.JSON
    return Daemon(
        name=DaemonName.MLFLOW,
        title="MLflow",
        command=(
            *(executable("mlflow"), "server", "--host", HOST, "--port", str(ports[PortName.MLFLOW]), "--workers", "1"),
            # Relative to its working directory: MLflow reads these as URLs, in which a path may hold no ?, # or %.
            *("--backend-store-uri", f"sqlite:///{layout.mlflow_database.name}"),
            *("--serve-artifacts", "--artifacts-destination", "artifacts"),
            *(("--uvicorn-opts", f"--log-config {shlex.quote(str(_MLFLOW_LOGGING))}") if in_json else ()),
        ),
        environment={
            **loopback_unproxied(os.environ),
            **_mlflow_environment(),
            # Its own loggers then print as the server's do.
            **({"MLFLOW_CONFIGURE_LOGGING": "false"} if in_json else {}),
        },
        url=url,
        ready_url=f"{url}/health",
        cwd=layout.mlflow,
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
    done = layout.mlflow / "schema"
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
    # Relative to the working directory, as for the server.
    command = [executable("mlflow"), "db", "upgrade", f"sqlite:///{database.name}"]
    environment = {**os.environ, **_mlflow_environment(), MARK: layout.mark(DaemonName.MLFLOW)}
    with open_log(log) as output:
        done = subprocess.run(
            command,
            env=environment,
            cwd=database.parent,
            stdout=output,
            stderr=output,
            start_new_session=True,
            umask=0o077,
        )
    if done.returncode:
        raise StackError(f"MLflow's database could not be upgraded (exit status {done.returncode}); see {log}")


def _ray(layout: HomeLayout, ports: Mapping[PortName, int], node_ip: str | None) -> Daemon:
    """The head of a Ray cluster, of one machine unless it has an address for others; its dashboard takes jobs."""
    url = http_url(ports[PortName.RAY])
    return Daemon(
        name=DaemonName.RAY,
        title="Ray",
        command=(
            *(executable("ray"), "start", "--head", "--block"),
            *("--node-ip-address", node_ip or HOST, "--port", str(ports[PortName.RAY_GCS])),
            *("--include-dashboard", "true", "--dashboard-host", HOST, "--dashboard-port", str(ports[PortName.RAY])),
            *("--ray-client-server-port", str(ports[PortName.RAY_CLIENT])),
            *NODE_OPTIONS,
            *("--node-name", platform.node(), "--temp-dir", str(layout.ray_temp)),
            # Two workers must fit on the smallest machine; there they share its core.
            *("--num-cpus", str(max(2, os.cpu_count() or 1))),
            # A search's trials are driven by tasks that need no CPU but wait for workers that do.
            *("--resources", json.dumps({"trial_driver": _TRIAL_DRIVERS})),
        ),
        environment=ray_environment(layout.token, layout.ray_temp, shared=node_ip is not None),
        url=url,
        ready_url=f"{url}/api/jobs/",
        cwd=layout.logs,
        headers={"Authorization": f"Bearer {_token(layout)}"},
        ports=(ports[PortName.RAY], ports[PortName.RAY_GCS], ports[PortName.RAY_CLIENT]),
        # It gives itself up when its node takes more than 30 s to register, as happens on a busy machine.
        tries=3,
    )


def _token(layout: HomeLayout) -> str:
    """Ray's token; empty where no stack has been started yet."""
    try:
        return layout.token.read_text().strip()
    except FileNotFoundError:
        return ""


def ray_environment(token: Path, ray_temp: Path, *, shared: bool) -> dict[str, str]:
    """Variables of Ray's processes on one machine, and of those that talk to them.

    Args:
        token: file with Ray's token.
        ray_temp: folder of Ray's sockets on this machine.
        shared: whether other machines belong to the cluster.
    """
    # What runs on the cluster has sockets of its own, which don't fit into every folder.
    temp = {} if len(tempfile.gettempdir()) <= _LONGEST_TEMP else {"TMPDIR": str(ray_temp)}
    return {
        **temp,
        **loopback_unproxied(os.environ),
        # Jobs call for "python": the one that runs the stack.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Its name notwithstanding: without it Ray turns a loopback address into that of the network card, on Linux.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1" if shared else "0",
        # A fast end of a run: the default polls workers every two seconds.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    }


def _api(layout: HomeLayout, ports: Mapping[PortName, int], data_dir: Path | None, node_ip: str | None) -> Daemon:
    """The control plane."""
    url = http_url(ports[PortName.API])
    environment = {
        "SEQAE_HOME": str(layout.home),
        "SEQAE_HOST": HOST,
        "SEQAE_PORT": str(ports[PortName.API]),
        "SEQAE_MLFLOW_URL": http_url(ports[PortName.MLFLOW]),
        "SEQAE_RAY_URL": http_url(ports[PortName.RAY]),
        "SEQAE_RAY_TOKEN_FILE": str(layout.token),
    }
    if data_dir is not None:
        environment["SEQAE_DATA_DIR"] = str(data_dir)
    if node_ip is not None:
        environment["SEQAE_HEAD_ADDRESS"] = join_address(node_ip, ports[PortName.RAY_GCS])
    ray = ray_environment(layout.token, layout.ray_temp, shared=node_ip is not None)
    return Daemon(
        name=DaemonName.API,
        title="control plane",
        command=(sys.executable, "-m", "service"),
        environment={**environment, **ray, **_mlflow_environment()},
        url=url,
        ready_url=f"{url}/readyz",
        cwd=layout.logs,
        judge=_why_no_jobs,
        ports=(ports[PortName.API],),
        grace=15.0,
    )


def _why_no_jobs(answer: httpx.Response) -> str | None:
    """Why a control plane that answers can't run jobs, by its readiness; None where it can, or can't say."""
    try:
        readiness = Readiness.model_validate_json(answer.content)
    except ValidationError:
        # Of a release that tells it by its status alone.
        return None
    # An older release says nothing of what works, and is ready only when all does.
    if readiness.ready and (readiness.works.run_jobs or "works" not in readiness.model_fields_set):
        return None
    missing = [f"{name}: {part.detail}" for name, part in readiness.parts.items() if not part.ok and name != "model"]
    return "; ".join(missing) or "jobs can't run yet"


def build_daemons(
    layout: HomeLayout, ports: Mapping[PortName, int], data_dir: Path | None, node_ip: str | None = None
) -> tuple[Daemon, ...]:
    """Ray, MLflow and the control plane, in the order in which they are started; they end the other way round.

    Args:
        layout: with its folders made.
        ports: for every name in PREFERRED_PORTS.
        data_dir: the user's own data.
        node_ip: address of this machine at which Ray's head listens for others; None: on the loopback alone.
    """
    return (_ray(layout, ports, node_ip), _mlflow(layout, ports), _api(layout, ports, data_dir, node_ip))
