"""Routes of the cluster's machines."""

import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from jobs.backends.fakes import FakeLauncher
from jobs.cluster.drains import Drain, end_drain, write_drain
from jobs.cluster.nodes import ClusterNode, NodeProcess, NodeResources, NodeState, ProcessRole
from jobs.directory.layout import JobFolder
from jobs.directory.placements import Placement, write_placement
from jobs.directory.storage_marker import ensure_marker, read_marker
from service.db.store import Store
from service.scheduling.node_views import node_list
from service.schemas.cluster import JoinInformation, Versions
from service.settings import Settings
from tests.unit.service.conftest import MakeApp, Serve


def test_a_machine_that_joins_is_told_what_it_needs(make_app: MakeApp, serve: Serve, tmp_path: Path) -> None:
    home = tmp_path / "shared"
    home.mkdir()
    client = serve(make_app(home=home, head_address="10.0.0.5:6379"))
    answer = client.get("/cluster/join")
    assert client.get("/cluster/join").json() == answer.json()
    told = JoinInformation.model_validate_json(answer.content)
    assert (told.head_address, told.storage, told.versions) == ("10.0.0.5:6379", str(home), Versions.installed())
    assert told.storage_marker == read_marker(home) == ensure_marker(home)
    assert answer.headers["cache-control"] == "no-store"


def test_a_cluster_of_one_machine_is_closed(client: httpx.Client) -> None:
    answer = client.get("/cluster/join")
    assert answer.status_code == 409
    assert answer.json()["type"].endswith(":cluster-closed")


SECOND = ClusterNode(
    id="27de",
    name="rack",
    address="10.0.0.6",
    is_head=False,
    state=NodeState.ALIVE,
    capacity=NodeResources(4, 1, 24e9),
    used=NodeResources(2, 1, 3e9),
)


def workers(submission: str, *ids: str) -> tuple[NodeProcess, ...]:
    return tuple(NodeProcess(submission, ProcessRole.WORKER, name) for name in ids)


def test_machines_with_job_attempt_and_rank(
    client: httpx.Client, launcher: FakeLauncher, settings: Settings, make_app: MakeApp
) -> None:
    job_id = client.post("/jobs", json={"name": "a"}).json()["id"]
    folder = JobFolder(settings.jobs_dir / job_id)
    write_placement(folder.attempt(2), Placement(rank=1, process_id="a1", node_id="27de"))
    write_placement(folder.attempt(1), Placement(rank=7, process_id="a2", node_id="27de"))
    busy = replace(
        SECOND, processes=(*workers(f"{job_id}-2", "a1", "a2"), NodeProcess(f"{job_id}-2", ProcessRole.DRIVER, "a0"))
    )
    idle = replace(SECOND, name="idle", used=NodeResources(memory_bytes=1e9))
    leaving = replace(idle, name="leaving", state=NodeState.DRAINING, detail="preempted")
    launcher.machines = (busy, idle, leaving)
    found = client.get("/nodes").json()["nodes"]
    assert [(work["attempt"], work["role"], work["rank"]) for work in found[0]["work"]] == [
        (2, "driver", None),
        (2, "worker", None),
        (2, "worker", 1),
    ], "a rank of another attempt is none of this one's"
    assert {work["job_id"] for work in found[0]["work"]} == {job_id}
    assert (found[0]["cpus"], found[0]["cpus_used"], found[0]["gpus_used"]) == (4, 2, 1)
    assert [node["is_idle"] for node in found] == [False, True, False]
    assert (found[2]["state"], found[2]["detail"]) == ("draining", "preempted")


@pytest.mark.parametrize("name", ["raysubmit_x7", "job_unknown-1", "x-99999999999999999999", "../../etc-1", "-"])
def test_work_of_nobody_here_is_shown_without_a_job(client: httpx.Client, launcher: FakeLauncher, name: str) -> None:
    launcher.machines = (replace(SECOND, processes=workers(name, "a1")),)
    (work,) = client.get("/nodes").json()["nodes"][0]["work"]
    assert work == {"job_id": None, "attempt": None, "role": "worker", "rank": None}


def test_a_cluster_that_is_away_is_told(client: httpx.Client, launcher: FakeLauncher) -> None:
    launcher.unreachable = True
    assert client.get("/nodes").status_code == 503


def test_others_jobs_are_not_named(store: Store, settings: Settings, client: httpx.Client) -> None:
    ada, bob = (
        client.post("/jobs", json={"name": "a"}, headers={"Seqae-Owner": name}).json()["id"] for name in ("ada", "bob")
    )
    busy = replace(SECOND, processes=(*workers(f"{bob}-1", "b"), *workers(f"{ada}-1", "a")))
    seen = node_list((busy,), store, settings.jobs_dir, "ada").nodes[0].work
    assert [work.job_id for work in seen] == [ada, None]
    assert len(node_list((busy,), store, settings.jobs_dir, None).nodes[0].work) == 2


def test_a_machine_that_was_asked_to_leave_is_draining(store: Store, settings: Settings) -> None:
    def states() -> list[str]:
        dead = replace(SECOND, state=NodeState.DEAD)
        other = replace(SECOND, address="10.0.0.7")
        return [node.state for node in node_list((SECOND, dead, other), store, settings.jobs_dir, None).nodes]

    assert states() == ["alive", "dead", "alive"]
    write_drain(settings.home, "k", Drain(name="rack", address="10.0.0.6", until=time.time() + 60))
    (settings.home / "nodes" / "x.json").write_text("{")
    assert states() == ["draining", "dead", "alive"]
    write_drain(settings.home, "k", Drain(name="rack", address="10.0.0.6", until=time.time() - 1))
    assert states() == ["alive", "dead", "alive"], "a file that was left behind"
    end_drain(settings.home, "k")
    end_drain(settings.home, "k")
