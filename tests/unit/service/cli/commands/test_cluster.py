"""`join`, as far as it starts nothing."""

from pathlib import Path

import pytest

from seqae.errors import Error
from service.local.join_ticket import JoinTicket, write_ticket
from service.local.joined_node import JoinedNode
from tests.unit.service.cli.conftest import FakeService, Run, as_json
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
