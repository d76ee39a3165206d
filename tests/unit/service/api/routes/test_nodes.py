"""Route of what a machine needs to join."""

from pathlib import Path

import httpx

from jobs.directory.storage_marker import ensure_marker, read_marker
from service.schemas.cluster import JoinInformation, Versions
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
