"""MLflow and Ray behind this service's door: who may do what there."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.upstream.reverse_proxy import ReverseProxy
from tests.unit.service.api.access.callers import Caller, Door
from tests.unit.service.api.access.test_every_route import make_door
from tests.unit.service.upstream.test_reverse_proxy import body_of


@pytest.fixture
def asked() -> list[httpx.Request]:
    return []


@pytest.fixture
def door(tmp_path: Path, asked: list[httpx.Request]) -> Iterator[Door]:
    made, store = make_door(tmp_path)
    put_behind(made, asked)
    yield made
    store.close()


def put_behind(door: Door, asked: list[httpx.Request]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, content=body_of(b"<html>"), headers={"content-type": "text/html"})

    door.context.mlflow_proxy = ReverseProxy("http://127.0.0.1:1", "/mlflow", transport=httpx.MockTransport(answer))
    door.context.ray_proxy = ReverseProxy("http://127.0.0.1:2", "/ray", transport=httpx.MockTransport(answer))


def status(door: Door, caller: Caller, method: str, path: str) -> int:
    return asyncio.run(door.ask(caller, method, path)).status_code


def test_whoever_may_read_reads_mlflow_and_admins_change_it(door: Door, asked: list[httpx.Request]) -> None:
    searches = ("runs/search", "experiments/search", "registered-models/search", "metrics/get-history-bulk-interval")
    for caller in (Caller.READ_ONLY, Caller.OWNER, Caller.ADMIN):
        assert status(door, caller, "GET", "/mlflow/?x=1") == 200
        for search in searches:
            assert status(door, caller, "POST", f"/mlflow/ajax-api/2.0/mlflow/{search}") == 200
    assert str(asked[0].url) == "http://127.0.0.1:1/?x=1"
    asked.clear()
    changes = ("runs/delete", "registered-models/alias", "runs/search/../delete", "runs/log-batch", "runs/searchx")
    for change in changes:
        for path in (f"/mlflow/ajax-api/2.0/mlflow/{change}", f"/mlflow/api/2.0/mlflow/{change}"):
            assert status(door, Caller.OWNER, "POST", path) == 403, path
    assert status(door, Caller.OWNER, "DELETE", "/mlflow/api/2.0/mlflow-artifacts/artifacts/x") == 403
    assert asked == []
    assert status(door, Caller.ADMIN, "POST", "/mlflow/ajax-api/2.0/mlflow/runs/delete") == 200
    newest = door.context.audit.page(None, 2)
    assert [(row.who, row.status) for row in newest] == [("grace", 200), ("ada", 403)]


def test_ray_is_for_admins(door: Door, asked: list[httpx.Request]) -> None:
    assert status(door, Caller.OWNER, "GET", "/ray/api/jobs/") == 403
    assert asked == []
    assert status(door, Caller.ADMIN, "GET", "/ray/api/jobs/") == 200
    assert str(asked[0].url) == "http://127.0.0.1:2/api/jobs/"
    assert "authorization" not in asked[0].headers, "this cluster has no token"


def test_files_of_runs_can_do_nothing_in_the_name_of_this_origin(door: Door) -> None:
    for path in (
        "get-artifact?path=x.html",
        "ajax-api/2.0/mlflow-artifacts/artifacts/x.html",
        "model-versions/get-artifact",
    ):
        answer = asyncio.run(door.ask(Caller.OWNER, "GET", f"/mlflow/{path}"))
        assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"
    page = asyncio.run(door.ask(Caller.OWNER, "GET", "/mlflow/")).headers["content-security-policy"]
    assert "default-src 'self'" in page
    assert "frame-ancestors 'self'" in page


def test_where_jobs_are_private_mlflow_is_for_admins(tmp_path: Path, asked: list[httpx.Request]) -> None:
    door, store = make_door(tmp_path, private_jobs=True)
    put_behind(door, asked)
    assert status(door, Caller.OWNER, "GET", "/mlflow/") == 403
    assert status(door, Caller.OWNER, "POST", "/mlflow/ajax-api/2.0/mlflow/runs/search") == 403
    assert asked == []
    assert status(door, Caller.ADMIN, "GET", "/mlflow/") == 200
    store.close()
