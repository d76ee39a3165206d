"""RayJobs of KubeRay through the API server of Kubernetes, behind the `Launcher` protocol.

Each attempt is a RayJob with a Ray cluster of its own, which the operator makes and removes; a queue such as Kueue may
hold it back. No client library is used: five kinds of requests are needed, each with a short time-out.
"""

import shlex
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import yaml
from pydantic import BaseModel, ValidationError

from jobs.backends.kubernetes.objects import (
    SUBMISSION_LABEL,
    KubernetesCredentials,
    KubernetesObject,
    ObjectList,
    Problem,
)
from jobs.backends.kubernetes.template import ClusterTemplate
from jobs.backends.ray import DRIVER_ENVIRONMENT, driver_command, literal_variables
from jobs.cluster.nodes import ClusterNode, NodeProcess, NodeResources, NodeState, ProcessRole
from jobs.directory.layout import JobFolder
from jobs.errors import LauncherUnavailable, SubmissionRefused
from jobs.interfaces import Capacity, ProcessState, Submission

__all__ = ["KubernetesLauncher"]

ObjectT = TypeVar("ObjectT", bound=BaseModel)

_MANAGED = {"app.kubernetes.io/managed-by": "seqae"}
_OWNER_LABEL = "ray.io/originated-from-cr-name"
"""By which the operator says of which RayJob a pod is."""
_TYPE_LABEL = "ray.io/node-type"
_PAGE = 500
_MOST_PAGES = 100
_KEPT_SECONDS = 600  # so long the cluster of an attempt that has ended stays, for a look at it
_REFUSALS = (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY)
_LONGEST_MESSAGE = 300


class KubernetesLauncher:
    """Runs attempts as RayJobs.

    Args:
        template: of the Ray cluster that each attempt gets.
        credentials: of the API server.
        labels: of each RayJob, such as a queue's name for Kueue.
        python: the interpreter in the image.
        timeout: seconds that a call may take.
        transport: for tests.
    """

    def __init__(
        self,
        template: ClusterTemplate,
        credentials: KubernetesCredentials | None = None,
        labels: Mapping[str, str] | None = None,
        python: str = "python",
        timeout: float = 5.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._template = template
        self._credentials = credentials or KubernetesCredentials()
        self._labels = dict(labels or {})
        self._python = python
        authority = self._credentials.authority
        self._http = httpx.Client(
            base_url=self._credentials.url,
            timeout=timeout,
            transport=transport,
            trust_env=False,
            verify=str(authority) if authority.exists() else True,
        )

    def close(self) -> None:
        """Closes the connections to the API server."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, submission: Submission) -> None:
        """See `jobs.interfaces.Launcher.submit`."""
        response = self._call("POST", self._jobs_path(), json=self._ray_job(submission))
        if response.status_code in _REFUSALS:
            raise SubmissionRefused(f"the cluster refuses the job: {_message(response)}")
        if response.status_code == httpx.codes.CONFLICT:
            # An earlier call got through without an answer, unless somebody else has an object of that name.
            if self._find(submission.submission_id) is None:
                raise SubmissionRefused(f"there is a RayJob {_name(submission.submission_id)} that is none of ours")
            return
        self._check(response, "create")

    def state(self, submission_id: str) -> ProcessState | None:
        """See `jobs.interfaces.Launcher.state`."""
        found = self._find(submission_id)
        return None if found is None else found.state

    def stop(self, submission_id: str) -> None:
        """See `jobs.interfaces.Launcher.stop`. The RayJob is removed, and its pods get SIGTERM."""
        found = self._find(submission_id)
        if found is None or found.state.is_terminal():
            return
        # Only this very object: one of the same name that was made since is another.
        body = {"propagationPolicy": "Background", "preconditions": {"uid": found.metadata.uid}}
        path = f"{self._jobs_path()}/{_name(submission_id)}"
        response = self._call("DELETE", path, json=body)
        if response.status_code not in (httpx.codes.NOT_FOUND, httpx.codes.CONFLICT):
            self._check(response, "delete")

    def logs(self, submission_id: str) -> str:
        """See `jobs.interfaces.Launcher.logs`: what the operator says of the RayJob."""
        found = self._find(submission_id)
        if found is None:
            return ""
        status = found.status
        return "\n".join(part for part in (status.deployment, status.reason, status.message) if part)

    def capacity(self) -> Capacity:
        """See `jobs.interfaces.Launcher.capacity`: the most that one attempt's cluster may have."""
        self.cluster_id()  # so that an API server that is away is noticed
        return Capacity(self._template.nodes)

    def nodes(self) -> tuple[ClusterNode, ...]:
        """See `jobs.interfaces.Launcher.nodes`: the pods of all attempts."""
        namespace = self._credentials.own_namespace()
        submissions = {job.metadata.name: job.submission for job in self._jobs() if job.submission}
        found = []
        for pod in self._list(f"/api/v1/namespaces/{quote(namespace)}/pods", "ray.io/cluster"):
            submission = submissions.get(pod.metadata.labels.get(_OWNER_LABEL, ""))
            if submission is not None:
                found.append(_node(pod, submission))
        return tuple(sorted(found, key=lambda node: node.name))

    def cluster_id(self) -> str:
        """See `jobs.interfaces.Launcher.cluster_id`: a namespace that is made anew has lost all that it had."""
        response = self._call("GET", f"/api/v1/namespaces/{quote(self._credentials.own_namespace())}")
        return self._parse(self._check(response, "get"), KubernetesObject).metadata.uid

    def live(self) -> set[str]:
        """See `jobs.interfaces.Launcher.live`."""
        return {job.submission for job in self._jobs() if job.submission and not job.state.is_terminal()}

    # --- what is sent

    def _ray_job(self, submission: Submission) -> dict[str, Any]:
        folder = JobFolder(submission.job_dir).attempt(submission.attempt).path
        parent, own = shlex.quote(str(folder.parent)), shlex.quote(str(folder))
        variables = literal_variables({**DRIVER_ENVIRONMENT, **submission.environment})
        return {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {
                "name": _name(submission.submission_id),
                "labels": {**self._labels, **_MANAGED, SUBMISSION_LABEL: submission.submission_id},
            },
            "spec": {
                # A queue that takes the cluster away and gives it back begins the same RayJob again. The attempt may
                # run once only: its folder is there then, and the second driver ends before it begins.
                "entrypoint": f"mkdir -p {parent} && mkdir {own} && {driver_command(submission, self._python)}",
                "jobId": submission.submission_id,
                "runtimeEnvYAML": yaml.safe_dump({"env_vars": variables}),
                "submissionMode": "HTTPMode",
                "backoffLimit": 0,
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": _KEPT_SECONDS,
                "rayClusterSpec": self._template.cluster_spec(submission.demand),
            },
        }

    def _jobs_path(self) -> str:
        return f"/apis/ray.io/v1/namespaces/{quote(self._credentials.own_namespace())}/rayjobs"

    # --- what is asked

    def _find(self, submission_id: str) -> KubernetesObject | None:
        """The RayJob of a submission; None where there is none, or another's has its name."""
        response = self._call("GET", f"{self._jobs_path()}/{_name(submission_id)}")
        if response.status_code == httpx.codes.NOT_FOUND and _is_status(response):
            return None
        found = self._parse(self._check(response, "get"), KubernetesObject)
        return found if found.submission == submission_id else None

    def _jobs(self) -> Iterator[KubernetesObject]:
        return self._list(self._jobs_path(), SUBMISSION_LABEL)

    def _list(self, path: str, selector: str) -> Iterator[KubernetesObject]:
        more = ""
        for _ in range(_MOST_PAGES):
            query = {"labelSelector": selector, "limit": str(_PAGE)} | ({"continue": more} if more else {})
            page = self._parse(self._check(self._call("GET", path, params=query), "list"), ObjectList)
            yield from page.items
            more = page.metadata.more
            if not more:
                return

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, headers=self._credentials.headers(), **options)
        except httpx.HTTPError as error:
            raise LauncherUnavailable(f"the API server does not answer: {type(error).__name__} {error}") from error

    def _check(self, response: httpx.Response, verb: str) -> httpx.Response:
        """The answer, if it is a success. Raises: LauncherUnavailable: with what is wrong, and what to do."""
        if response.is_success:
            return response
        why = _message(response)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            why = f"the service account's token is not accepted: {why}"
        elif response.status_code == httpx.codes.FORBIDDEN:
            why = f"the service account may not {verb} this (deploy/kubernetes has its Role), or a quota is full: {why}"
        elif response.status_code == httpx.codes.NOT_FOUND:
            why = f"it knows no RayJob; is the operator KubeRay installed? {why}"
        raise LauncherUnavailable(f"the API server answers {response.status_code}: {why}")

    def _parse(self, response: httpx.Response, kind: type[ObjectT]) -> ObjectT:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise LauncherUnavailable(f"the API server's answer has another shape: {where or 'no JSON'}") from error


def _name(submission_id: str) -> str:
    """Name of a RayJob: small letters, digits and hyphens. The label has the id itself."""
    return submission_id.lower().replace("_", "-")


def _node(pod: KubernetesObject, submission: str) -> ClusterNode:
    is_head = pod.metadata.labels.get(_TYPE_LABEL) == "head"
    is_dead = pod.status.phase in ("Failed", "Succeeded")
    leaving = NodeState.DRAINING if pod.metadata.deleted_at else NodeState.ALIVE
    role = ProcessRole.DRIVER if is_head else ProcessRole.WORKER
    return ClusterNode(
        id=pod.metadata.uid,
        name=pod.metadata.name,
        address=pod.status.address,
        is_head=is_head,
        state=NodeState.DEAD if is_dead else leaving,
        capacity=NodeResources(),
        used=NodeResources(),
        detail=(pod.status.message or pod.status.reason or ("" if pod.status.phase == "Running" else pod.status.phase)),
        processes=() if is_dead else (NodeProcess(submission, role, pod.metadata.uid),),
    )


def _is_status(response: httpx.Response) -> bool:
    """Whether the API server itself says that an object is not there: a path that it does not know has no JSON."""
    return "json" in response.headers.get("content-type", "")


def _message(response: httpx.Response) -> str:
    try:
        found = Problem.model_validate_json(response.content).message
    except ValidationError:
        found = response.reason_phrase
    return found[:_LONGEST_MESSAGE]
