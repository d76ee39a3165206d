"""Ray's Jobs API over HTTP, behind the `Launcher` protocol.

Ray's own client is not used: it imports ray, and its calls hang for a minute when the head's store has died. Every call
here has a short time-out, after which nothing is known (LauncherUnavailable).
"""

import logging
import re
import shlex
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from jobs.backends.ray_nodes import RayAnswers, cluster_nodes
from jobs.cluster.nodes import ClusterNode
from jobs.directory.layout import JobFolder
from jobs.errors import LauncherUnavailable, SubmissionRefused
from jobs.interfaces import Capacity, NodeCapacity, ProcessState, Submission

__all__ = ["DRIVER_ENVIRONMENT", "RayLauncher", "driver_command", "literal_variables"]

logger = logging.getLogger(__name__)

# A new head answers its first submission after 4 s.
_SUBMIT_TIMEOUT = 15.0

_ALL_ALIVE = {
    "detail": "false",
    "limit": "10000",
    "filter_keys": "state",
    "filter_predicates": "=",
    "filter_values": "ALIVE",
}
"""Parameters of a list of actors: those that live."""

_TUNABLES = ("hugetlb=1", "trim_threshold=1073741824", "mmap_threshold=33554432")
MALLOC = {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{tunable}" for tunable in _TUNABLES)}
"""The C library's malloc for training on CPUs: huge pages, and what a step has freed (up to 1 GiB, in blocks of up to
32 MiB) stays with the process, since the next step takes it again. Other C libraries do not read it."""

# What every driver and worker gets. With the default of two seconds between polls, a run ends six seconds later.
DRIVER_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # An actor more for each job; a lost worker is found and replaced without it.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A job that asked for no GPU sees none: it could take memory of one that another job has.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # What drivers print is read over HTTP: without colours, each line as soon and as often as it is printed.
    "NO_COLOR": "1",
    "RAY_COLOR_PREFIX": "0",
    "RAY_DEDUP_LOGS": "0",
    "PYTHONUNBUFFERED": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    **MALLOC,
}
# Ray replaces $NAME and ${NAME} in each value, in this order. A path may have a dollar sign of its own.
_DOLLAR = {"SEQAE_DOLLAR_SIGN": "$"}


class RayLauncher:
    """Runs attempts as Ray jobs.

    Args:
        url: of the head's dashboard, such as http://127.0.0.1:8265.
        token_file: holds the cluster's token; read at each call, so that a new token is found. None: no authentication.
        python: the interpreter on the cluster's machines.
        timeout: seconds that a call may take.
        transport: for tests.
    """

    def __init__(
        self,
        url: str,
        token_file: Path | None = None,
        python: str = "python",
        timeout: float = 5.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._token_file = token_file
        self._python = python
        # The cluster is next door: a proxy from the environment would only be in the way.
        self._http = httpx.Client(base_url=url, timeout=timeout, transport=transport, trust_env=False)

    def close(self) -> None:
        """Closes the connections to the cluster."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, submission: Submission) -> None:
        """See `jobs.interfaces.Launcher.submit`."""
        body = {
            "entrypoint": f"mkdir -p {_folder(submission)} && {driver_command(submission, self._python)}",
            "submission_id": submission.submission_id,
            "runtime_env": {"env_vars": literal_variables({**DRIVER_ENVIRONMENT, **submission.environment})},
            "metadata": {"job_id": submission.job_id, "attempt": str(submission.attempt)},
        }
        response = self._call("POST", "/api/jobs/", json=body, timeout=_SUBMIT_TIMEOUT)
        # Ray answers 500 here, with the trace of its ValueError.
        if response.is_success or "already exists" in response.text:
            return
        if response.status_code == httpx.codes.BAD_REQUEST:
            raise SubmissionRefused(f"the cluster refuses the job: {_last_line(response)}")
        raise _unavailable(response)

    def state(self, submission_id: str) -> ProcessState | None:
        """See `jobs.interfaces.Launcher.state`."""
        response = self._call("GET", f"/api/jobs/{submission_id}")
        if _is_unknown(response):
            return None
        return ProcessState(_json(response)["status"])

    def stop(self, submission_id: str) -> None:
        """See `jobs.interfaces.Launcher.stop`."""
        response = self._call("POST", f"/api/jobs/{submission_id}/stop")
        if not response.is_success and not _is_unknown(response):
            raise _unavailable(response)

    def logs(self, submission_id: str) -> str:
        """See `jobs.interfaces.Launcher.logs`."""
        response = self._call("GET", f"/api/jobs/{submission_id}/logs")
        return "" if _is_unknown(response) else str(_json(response)["logs"])

    def capacity(self) -> Capacity:
        """See `jobs.interfaces.Launcher.capacity`."""
        # A head that has just started answers without any node: then nothing can be said yet.
        answer = _json(self._call("GET", "/api/v0/nodes", params={"detail": "true", "limit": "10000"}))
        alive = [node["resources_total"] for node in answer["data"]["result"]["result"] if node["state"] == "ALIVE"]
        if not alive:
            raise LauncherUnavailable("the cluster has no machine yet")
        return Capacity(
            tuple(
                NodeCapacity(
                    cpus=float(resources.get("CPU", 0)),
                    gpus=float(resources.get("GPU", 0)),
                    memory_bytes=float(resources.get("memory", 0)),
                )
                for resources in alive
            )
        )

    def nodes(self) -> tuple[ClusterNode, ...]:
        """See `jobs.interfaces.Launcher.nodes`."""
        summary = _json(self._call("GET", "/nodes", params={"view": "summary"}))
        report = _json(self._call("GET", "/api/cluster_status"))
        actors = _json(self._call("GET", "/api/v0/actors", params=_ALL_ALIVE))
        answers = RayAnswers.parse(summary, report, actors, self._jobs())
        if not answers.nodes:
            raise LauncherUnavailable("the cluster has no machine yet")
        return cluster_nodes(answers)

    def cluster_id(self) -> str:
        """See `jobs.interfaces.Launcher.cluster_id`."""
        return str(_json(self._call("GET", "/api/version"))["session_name"])

    def live(self) -> set[str]:
        """See `jobs.interfaces.Launcher.live`."""
        return {
            str(job["submission_id"])
            for job in self._jobs()
            if job["type"] == "SUBMISSION" and not ProcessState(job["status"]).is_terminal()
        }

    def _jobs(self) -> Any:
        return _json(self._call("GET", "/api/jobs/"))

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, headers=self._headers(), **options)
        except httpx.HTTPError as error:
            raise LauncherUnavailable(f"the cluster does not answer: {type(error).__name__} {error}") from error

    def _headers(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            return {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}
        except OSError as error:
            raise LauncherUnavailable(f"the cluster's token can't be read: {error}") from error


def _folder(submission: Submission) -> str:
    return shlex.quote(str(JobFolder(submission.job_dir).attempt(submission.attempt).path))


def driver_command(submission: Submission, python: str) -> str:
    """The driver's command for a shell. It prints into the attempt's folder, where its output outlives the head."""
    arguments = [python, "-m", f"jobs.{submission.kind}"]
    arguments += ["--job-dir", str(submission.job_dir), "--attempt", str(submission.attempt)]
    log = JobFolder(submission.job_dir).attempt(submission.attempt).log
    return f"exec {shlex.join(arguments)} >> {shlex.quote(str(log))} 2>&1"


def _is_unknown(response: httpx.Response) -> bool:
    return response.status_code == httpx.codes.NOT_FOUND and "does not exist" in response.text


def _json(response: httpx.Response) -> Any:
    if not response.is_success:
        raise _unavailable(response)
    try:
        return response.json()
    except ValueError as error:
        raise LauncherUnavailable(f"the cluster's answer to {response.url} is not JSON") from error


def _unavailable(response: httpx.Response) -> LauncherUnavailable:
    return LauncherUnavailable(f"the cluster answers {response.status_code}: {_last_line(response)}")


def _last_line(response: httpx.Response) -> str:
    """Ray puts a trace into the body; its last line that says something is the message."""
    lines = [line for line in response.text.splitlines() if len(line.strip()) > 1]
    return lines[-1].strip() if lines else response.reason_phrase


def literal_variables(environment: dict[str, str]) -> dict[str, str]:
    """An environment in which Ray replaces nothing but what becomes a dollar sign.

    Raises:
        SubmissionRefused: there is a name in braces behind one; Ray takes these out, wherever they come from.
    """
    for name, value in environment.items():
        if re.search(r"\$\{[A-Z0-9_]+\}", value):
            raise SubmissionRefused(f"{name} has a part like ${{NAME}}, which Ray would take out: use another path")
    return _DOLLAR | {name: value.replace("$", "${SEQAE_DOLLAR_SIGN}") for name, value in environment.items()}
