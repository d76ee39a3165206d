"""Attempts as RayJobs, against a fake API server on a real port."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from jobs.backends.kubernetes.launcher import KubernetesLauncher
from jobs.backends.kubernetes.objects import KubernetesCredentials
from jobs.backends.kubernetes.template import ClusterTemplate
from jobs.cluster.nodes import NodeState, ProcessRole
from jobs.errors import LauncherUnavailable, SubmissionRefused
from jobs.interfaces import ProcessState, Submission, WorkerDemand
from tests.api_server import FakeApiServer
from tests.kustomize import render

ROOT = Path(__file__).parents[5]
NAME = "job-4f7k-2"
QUEUE = {"kueue.x-k8s.io/queue-name": "gpus"}


@pytest.fixture
def server() -> Iterator[FakeApiServer]:
    with FakeApiServer() as made:
        yield made


@pytest.fixture
def credentials(server: FakeApiServer, tmp_path: Path) -> KubernetesCredentials:
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "namespace").write_text("lab")
    return KubernetesCredentials(server.url, tmp_path)


@pytest.fixture
def launcher(credentials: KubernetesCredentials) -> Iterator[KubernetesLauncher]:
    (manifest,) = [one for one in render(ROOT / "deploy/kubernetes/gpus") if one["kind"] == "RayCluster"]
    with KubernetesLauncher(ClusterTemplate(manifest), credentials, QUEUE) as made:
        yield made


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    environment: Mapping[str, str] = {"SEQAE_RUN_ID": "r$1"}
    return Submission("job_4f7k", 2, "train", tmp_path / "with space", environment, WorkerDemand(3, 2, 0))


def spec_of(server: FakeApiServer) -> dict[str, Any]:
    (made,) = server.objects.values()
    spec: dict[str, Any] = made["spec"]
    return spec


def test_an_attempt_is_a_ray_job_of_its_own(
    launcher: KubernetesLauncher, server: FakeApiServer, submission: Submission
) -> None:
    launcher.submit(submission)
    made = server.objects[NAME]
    schema = json.loads((ROOT / "tests/fixtures/kubernetes/ray.schema.json").read_text())
    sent = {**made, "metadata": {key: made["metadata"][key] for key in ("name", "labels")}}
    jsonschema.validate(sent, schema)
    assert made["metadata"]["labels"]["seqae/submission"] == "job_4f7k-2"
    assert made["metadata"]["labels"].items() >= QUEUE.items()
    spec = spec_of(server)
    assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"], spec["jobId"]) == (0, True, "job_4f7k-2")
    variables = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert variables["SEQAE_RUN_ID"] == "r${SEQAE_DOLLAR_SIGN}1", "Ray puts the dollar sign back"
    assert variables["RAY_TRAIN_V2_ENABLED"] == "1"
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["groupName"], group["replicas"], group["minReplicas"]) == ("cpu", 2, 2), "2 of 2 CPUs in one of 4"


def test_a_cluster_that_is_given_back_runs_no_attempt_twice(
    launcher: KubernetesLauncher, server: FakeApiServer, submission: Submission, tmp_path: Path
) -> None:
    """A queue preempts by suspending: later the same RayJob begins anew, with the same attempt."""
    launcher.submit(submission)
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    command = spec_of(server)["entrypoint"].replace("exec python", f"exec {program}")
    ends = [subprocess.run(["sh", "-c", command], capture_output=True).returncode for _ in range(2)]
    assert ends == [0, 1]
    printed = (submission.job_dir / "attempts/2/driver.log").read_text()
    assert printed == f"-m jobs.train --job-dir {submission.job_dir} --attempt 2\n"


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({}, ProcessState.PENDING),
        ({"jobDeploymentStatus": "Suspended"}, ProcessState.PENDING),
        ({"jobDeploymentStatus": "Initializing"}, ProcessState.PENDING),
        ({"jobDeploymentStatus": "Running", "jobStatus": "PENDING"}, ProcessState.PENDING),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, ProcessState.RUNNING),
        ({"jobDeploymentStatus": "Running", "jobStatus": "SUCCEEDED"}, ProcessState.SUCCEEDED),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, ProcessState.SUCCEEDED),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, ProcessState.STOPPED),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING"}, ProcessState.FAILED),
        ({"jobDeploymentStatus": "Of A Later Release", "jobStatus": "NEW"}, ProcessState.PENDING),
    ],
)
def test_states(
    launcher: KubernetesLauncher,
    server: FakeApiServer,
    submission: Submission,
    status: dict[str, str],
    state: ProcessState,
) -> None:
    assert launcher.state("job_4f7k-2") is None
    launcher.submit(submission)
    server.set_status(NAME, **status)
    assert launcher.state("job_4f7k-2") is state
    assert launcher.live() == (set() if state.is_terminal() else {"job_4f7k-2"})


def test_what_the_operator_says_is_the_log(
    launcher: KubernetesLauncher, server: FakeApiServer, submission: Submission
) -> None:
    assert launcher.logs("job_4f7k-2") == ""
    launcher.submit(submission)
    server.set_status(NAME, jobDeploymentStatus="Failed", reason="SubmissionFailed", message="no such image")
    assert launcher.logs("job_4f7k-2") == "Failed\nSubmissionFailed\nno such image"


def test_a_stop_removes_what_lives_and_leaves_what_has_ended(
    launcher: KubernetesLauncher, server: FakeApiServer, submission: Submission
) -> None:
    launcher.stop("job_4f7k-2")
    launcher.submit(submission)
    server.set_status(NAME, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    launcher.stop("job_4f7k-2")
    assert NAME in server.objects
    server.set_status(NAME, jobDeploymentStatus="Running", jobStatus="RUNNING")
    launcher.stop("job_4f7k-2")
    assert server.objects == {}
    assert launcher.state("job_4f7k-2") is None


def test_lost_answers_double_nothing(
    launcher: KubernetesLauncher, server: FakeApiServer, submission: Submission
) -> None:
    server.loses_answers = True
    with pytest.raises(LauncherUnavailable, match="does not answer"):
        launcher.submit(submission)
    server.loses_answers = False
    launcher.submit(submission)
    launcher.submit(submission)
    assert [one["metadata"]["uid"] for one in server.objects.values()] == ["uid-1"]
    server.loses_answers = True
    with pytest.raises(LauncherUnavailable):
        launcher.stop("job_4f7k-2")
    launcher.stop("job_4f7k-2")
    assert server.objects == {}


def test_an_object_of_somebody_else_is_neither_taken_nor_removed(
    launcher: KubernetesLauncher, server: FakeApiServer, submission: Submission
) -> None:
    server.objects[NAME] = {"metadata": {"name": NAME, "uid": "theirs", "labels": {}}, "status": {}}
    with pytest.raises(SubmissionRefused, match="none of ours"):
        launcher.submit(submission)
    launcher.stop("job_4f7k-2")
    assert (launcher.state("job_4f7k-2"), launcher.live()) == (None, set())
    assert NAME in server.objects


Act = Callable[[KubernetesLauncher, Submission], object]
ACTS: tuple[Act, ...] = (
    lambda launcher, submission: launcher.submit(submission),
    lambda launcher, _: launcher.state("job_4f7k-2"),
    lambda launcher, _: launcher.stop("job_4f7k-2"),
    lambda launcher, _: launcher.live(),
    lambda launcher, _: launcher.cluster_id(),
    lambda launcher, _: launcher.capacity(),
    lambda launcher, _: launcher.nodes(),
)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        ((403, "rayjobs is forbidden: exceeded quota"), "403: .*may not .*Role.*quota is full: rayjobs is forbidden"),
        ((401, "x"), "401: the service account's token is not accepted"),
        ((429, "slow down"), "429: slow down"),
        ((500, "etcd"), "500: etcd"),
        ((503, ""), "503"),
    ],
)
def test_a_refusal_is_told_and_decides_nothing(
    launcher: KubernetesLauncher,
    server: FakeApiServer,
    submission: Submission,
    act: Act,
    refusal: tuple[int, str],
    why: str,
) -> None:
    server.refusal = refusal
    with pytest.raises(LauncherUnavailable, match=why):
        act(launcher, submission)


@pytest.mark.parametrize("status", [400, 422])
def test_a_job_that_is_never_taken_is_refused(
    launcher: KubernetesLauncher, server: FakeApiServer, submission: Submission, status: int
) -> None:
    server.refusal = (status, "spec.rayClusterSpec: Invalid value")
    with pytest.raises(SubmissionRefused, match="Invalid value"):
        launcher.submit(submission)


def test_a_cluster_without_the_operator_is_told(
    launcher: KubernetesLauncher, server: FakeApiServer, submission: Submission
) -> None:
    """Else every job would count as lost: a path that nobody knows is no answer about a job."""
    server.has_operator = False
    for act in ACTS[:4]:
        with pytest.raises(LauncherUnavailable, match="is the operator KubeRay installed"):
            act(launcher, submission)


def test_the_token_is_read_anew(launcher: KubernetesLauncher, server: FakeApiServer, tmp_path: Path) -> None:
    assert launcher.cluster_id() == "uid-of-lab"
    server.token = "second"
    with pytest.raises(LauncherUnavailable):
        launcher.cluster_id()
    (tmp_path / "token").write_text("second")
    assert launcher.cluster_id() == "uid-of-lab"
    (tmp_path / "token").unlink()
    with pytest.raises(LauncherUnavailable, match="token can't be read"):
        launcher.cluster_id()


def test_all_pages_are_read(launcher: KubernetesLauncher, server: FakeApiServer, submission: Submission) -> None:
    for attempt in range(7):
        launcher.submit(replace(submission, attempt=attempt))
    server.page = 3
    assert launcher.live() == {f"job_4f7k-{attempt}" for attempt in range(7)}


def test_pods_are_the_machines(launcher: KubernetesLauncher, server: FakeApiServer, submission: Submission) -> None:
    launcher.submit(submission)
    labels = {"ray.io/originated-from-cr-name": NAME, "ray.io/node-type": "worker"}
    server.pods = [
        {
            "metadata": {"name": "w-0", "uid": "a", "labels": labels},
            "status": {"phase": "Running", "podIP": "10.0.0.7"},
        },
        {
            "metadata": {"name": "w-1", "uid": "b", "labels": labels, "deletionTimestamp": "2026-11-25T00:00:00Z"},
            "status": {"phase": "Running"},
        },
        {"metadata": {"name": "w-2", "uid": "c", "labels": labels}, "status": {"phase": "Failed", "reason": "Evicted"}},
        {"metadata": {"name": "h", "uid": "d", "labels": {**labels, "ray.io/node-type": "head"}}, "status": {}},
        {"metadata": {"name": "other", "uid": "e", "labels": {}}, "status": {"phase": "Running"}},
    ]
    head, *workers = launcher.nodes()
    assert [node.state for node in workers] == [NodeState.ALIVE, NodeState.DRAINING, NodeState.DEAD]
    assert (workers[0].address, workers[2].detail, workers[2].processes) == ("10.0.0.7", "Evicted", ())
    assert workers[0].processes[0].submission_id == "job_4f7k-2"
    assert (head.is_head, head.processes[0].role) == (True, ProcessRole.DRIVER)


@pytest.mark.parametrize("content", ["", "[]", "<html>", '{"items": 3}', '{"metadata": {"labels": 1}}'])
def test_an_answer_of_another_shape_says_nothing(credentials: KubernetesCredentials, content: str) -> None:
    (manifest,) = [one for one in render(ROOT / "deploy/kubernetes/several") if one["kind"] == "RayCluster"]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=content))
    with (
        KubernetesLauncher(ClusterTemplate(manifest), credentials, transport=transport) as launcher,
        pytest.raises(LauncherUnavailable, match="another shape"),
    ):
        launcher.live()
