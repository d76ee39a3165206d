"""The dashboard's answers of Ray 2.60, as they were seen, made into machines."""

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.backends.ray import RayLauncher
from jobs.cluster.nodes import ClusterNode, NodeProcess, NodeResources, NodeState, ProcessRole
from jobs.errors import LauncherUnavailable

HEAD, SECOND = "c7e0", "27de"
GB = 1e9


def node(node_id: str, name: str, cpus: float, **raylet: object) -> dict[str, Any]:
    return {
        "hostname": "vm",
        "mem": [25 * GB, 23 * GB, 8.8, 2 * GB],
        "gpus": [],
        "raylet": {
            "nodeId": node_id,
            "nodeName": name,
            "nodeManagerAddress": "10.0.0.5",
            "isHeadNode": node_id == HEAD,
            "resourcesTotal": {"CPU": cpus, "GPU": 1.0, "memory": 24 * GB, "objectStoreMemory": 150e6},
            "stateSnapshot": {"state": "ACTIVE", "idleDurationMs": "0"},
            "state": "ALIVE",
            "stateMessage": None,
            "startTimeMs": "1795628291940",
            "endTimeMs": "0",
        }
        | raylet,
    }


def actor(actor_id: str, kind: str, **changes: object) -> dict[str, Any]:
    usual = {"actor_id": actor_id, "class_name": kind, "state": "ALIVE", "job_id": "02000000", "node_id": SECOND}
    return usual | {"name": "", "pid": 7} | changes


ANSWERS: dict[str, Any] = {
    "/nodes": {"data": {"summary": [node(SECOND, "rack", 1.0), node(HEAD, "desk", 2.0)]}},
    "/api/cluster_status": {
        "data": {
            "clusterStatus": {
                "loadMetricsReport": {
                    "usageByNode": {
                        HEAD: {"CPU": [0.0, 2.0], "memory": [0.0, 24 * GB]},
                        SECOND: {"CPU": [1.0, 1.0], "GPU": [0.5, 1.0]},
                    }
                }
            }
        }
    },
    "/api/v0/actors": {
        "data": {
            "result": {
                "result": [
                    actor("a1", "RayTrainWorker"),
                    actor("a2", "RayTrainWorker", state="DEAD"),
                    actor("a3", "RayTrainWorker", job_id="09000000"),
                    actor("a4", "JobSupervisor", name="_ray_internal_job_actor_job_a-1", job_id="01", node_id=HEAD),
                    actor("a5", "TrainController"),
                    actor("a6", "RayTrainWorker", node_id=None),
                ]
            }
        }
    },
    "/api/jobs/": [
        {"type": "SUBMISSION", "job_id": "02000000", "submission_id": "job_a-1", "status": "RUNNING"},
        {"type": "DRIVER", "job_id": "03000000", "submission_id": None, "status": "RUNNING"},
    ],
}


Change = Callable[[dict[str, Any]], object]


def nodes(change: Change = lambda _: None) -> tuple[ClusterNode, ...]:
    answers = copy.deepcopy(ANSWERS)
    change(answers)

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=answers[request.url.path])

    with RayLauncher("http://ray", transport=httpx.MockTransport(handler)) as launcher:
        return launcher.nodes()


def test_machines_with_what_runs_on_them() -> None:
    head, second = nodes()
    assert (head.name, head.is_head, second.name, second.is_head) == ("desk", True, "rack", False)
    assert second.capacity == NodeResources(1, 1, 24 * GB)
    assert second.used == NodeResources(1, 0.5, 2 * GB)
    assert head.processes == (NodeProcess("job_a-1", ProcessRole.DRIVER, "a4"),)
    assert second.processes == (NodeProcess("job_a-1", ProcessRole.WORKER, "a1"),)
    assert second.started_at == datetime.fromtimestamp(1795628291.94, UTC)
    assert (second.ended_at, second.state) == (None, NodeState.ALIVE)


def test_a_machine_that_drains_and_one_that_died() -> None:
    def change(answers: dict[str, Any]) -> None:
        dead = node(
            "dead", "rack", 1.0, state="DEAD", stateMessage="Terminated due to preemption", endTimeMs="1795628303135"
        )
        answers["/nodes"]["data"]["summary"].append(dead)
        answers["/nodes"]["data"]["summary"][0]["raylet"]["stateSnapshot"]["state"] = "DRAINING"
        answers["/api/v0/actors"]["data"]["result"]["result"].append(actor("a9", "RayTrainWorker", node_id="dead"))

    head, second, dead = nodes(change)
    assert (head.state, second.state, dead.state) == (NodeState.ALIVE, NodeState.DRAINING, NodeState.DEAD)
    assert dead.detail == "Terminated due to preemption"
    assert dead.ended_at == datetime.fromtimestamp(1795628303.135, UTC)
    assert dead.processes == ()
    assert dead.used == NodeResources()


def test_of_the_dead_the_newest_are_told() -> None:
    def change(answers: dict[str, Any]) -> None:
        for number in range(50):
            answers["/nodes"]["data"]["summary"].append(
                node(f"d{number}", "", 1, state="DEAD", endTimeMs=str(1000 + number))
            )

    found = nodes(change)
    assert [one.id for one in found] == [HEAD, SECOND, *(f"d{number}" for number in range(49, 29, -1))]


@pytest.mark.parametrize(
    "change",
    [
        lambda answers: answers.update({"/api/cluster_status": {"data": {"clusterStatus": None}}}),
        lambda answers: answers.update({"/api/v0/actors": {"data": {"result": {"result": []}}}, "/api/jobs/": []}),
        lambda answers: answers["/nodes"]["data"]["summary"][1].pop("mem"),
        lambda answers: answers["/nodes"]["data"]["summary"][1]["raylet"].update(
            resourcesTotal=None, stateSnapshot=None
        ),
    ],
)
def test_what_ray_does_not_know_yet_is_left_out(change: Change) -> None:
    assert [one.id for one in nodes(change)] == [HEAD, SECOND]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda answers: answers["/nodes"]["data"].update(summary=[]), "no machine yet"),
        (lambda answers: answers["/nodes"]["data"].update(summary=[{"raylet": {}}]), r"summary\.0\.raylet\.nodeId"),
        (lambda answers: answers["/nodes"]["data"].update(summary="x"), "nodes"),
        (lambda answers: answers.update({"/nodes": []}), "not as Ray gives it"),
        (lambda answers: answers.update({"/api/jobs/": {"error": "x"}}), "jobs"),
    ],
)
def test_an_answer_of_another_shape_says_nothing(change: Change, why: str) -> None:
    with pytest.raises(LauncherUnavailable, match=why):
        nodes(change)


def test_a_cluster_that_does_not_answer_says_nothing(tmp_path: Path) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(500, text="Traceback\nRuntimeError: no"))
    with RayLauncher("http://ray", transport=transport) as launcher, pytest.raises(LauncherUnavailable, match="500"):
        launcher.nodes()
