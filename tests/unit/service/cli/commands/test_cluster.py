"""`join`, as far as it starts nothing, and `nodes`."""

import json
from pathlib import Path

import pytest

from jobs.cluster.nodes import NodeState, ProcessRole
from seqae.errors import Error
from service.local.join_ticket import JoinTicket, write_ticket
from service.local.joined_node import JoinedNode
from service.schemas.cluster import NodeList, NodeView, NodeWork
from tests.unit.service.cli.conftest import AT, FakeService, Run, as_json
from tests.unit.service.local.test_join_ticket import SECRET, make_ticket


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[JoinedNode]:
    """The nodes that were to join."""
    made: list[JoinedNode] = []
    monkeypatch.setattr(JoinedNode, "run", lambda node: made.append(node))
    return made


@pytest.fixture
def ticket(tmp_path: Path) -> JoinTicket:
    made = make_ticket(tmp_path)
    write_ticket(tmp_path / "join.token", made)
    return made


def test_a_head_is_named_by_its_address(run: Run, joined: list[JoinedNode], ticket: JoinTicket, tmp_path: Path) -> None:
    for head in ("10.0.0.5:6379", "10.0.0.5"):
        assert run("join", head, "--home", str(tmp_path)).exit_code == 0
    assert run("join", head, "--token-file", str(tmp_path / "join.token"), "--cpus", "2").exit_code == 0
    assert [(node._information, node._token) for node in joined] == [(ticket, SECRET)] * 3
    assert joined[2]._size.cpus == 2


@pytest.mark.parametrize("head", ["10.0.0.6:6379", "10.0.0.5:1", "10.0.0", "x"])
def test_a_file_of_another_head_is_refused(
    run: Run, joined: list[JoinedNode], ticket: JoinTicket, tmp_path: Path, head: str
) -> None:
    done = run("join", head, "--home", str(tmp_path))
    assert isinstance(done.exception, Error)
    assert "is of the head at 10.0.0.5:6379" in str(done.exception)
    assert joined == []


def test_a_service_is_asked_by_its_url(
    run: Run, joined: list[JoinedNode], service: FakeService, ticket: JoinTicket, tmp_path: Path
) -> None:
    token = tmp_path / "ray.token"
    token.write_text(SECRET)
    token.chmod(0o600)
    service.answers["GET /cluster/join"] = lambda _: as_json(ticket.model_dump(exclude={"ray_token"}))
    assert run("join", "http://head.test:8400", "--token-file", str(token)).exit_code == 0
    assert joined[0]._information.head_address == "10.0.0.5:6379"
    assert joined[0]._token == SECRET


def test_the_machines_and_what_runs_on_them(run: Run, service: FakeService) -> None:
    work = NodeWork(job_id="job_a", attempt=2, role=ProcessRole.WORKER, rank=1)
    usual = NodeView(
        id="c7e0",
        name="desk",
        address="10.0.0.5",
        is_head=True,
        state=NodeState.ALIVE,
        cpus=8,
        cpus_used=2.5,
        gpus=1,
        gpus_used=0,
        memory_bytes=48e9,
        memory_used_bytes=9.5e9,
        is_idle=False,
        work=(NodeWork(job_id=None, attempt=None, role=ProcessRole.DRIVER), work),
    )
    idle = usual.model_copy(update={"name": "rack", "is_head": False, "is_idle": True, "work": ()})
    dead = idle.model_copy(update={"state": NodeState.DEAD, "is_idle": False, "detail": "preempted", "ended_at": AT})
    view = NodeList(nodes=(usual, idle, dead))
    service.answers["GET /nodes"] = lambda _: as_json(view)
    lines = run("nodes").stdout.splitlines()
    assert lines[1].split("  ")[0] == "desk (head)"
    assert "driver of another's job, job_a-2 rank 1" in lines[1]
    assert all(part in lines[1] for part in ("alive", "2.5/8", "0/1", "9.5/48.0 GB"))
    assert lines[2].split()[:2] == ["rack", "idle"]
    assert "dead" in lines[3]
    assert "since 2026-01-02" in lines[3]
    assert lines[3].endswith("preempted")
    assert json.loads(run("nodes", "--json").stdout)["nodes"][2]["state"] == "dead"
