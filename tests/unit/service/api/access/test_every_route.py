"""Every route of the app, for every kind of caller: made from the routes, so that a new one can't be forgotten."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from jobs.backends.fakes import FakeLauncher, FakeTracking
from jobs.specs import job_spec
from service.api.access.principal import Requires, needs
from service.api.access.route_table import RouteTable
from service.app import create_app
from service.db.store import Store
from service.scopes import Scope
from service.settings import Settings
from tests.unit.service.api.access.callers import STRANGERS, Caller, Door

PUBLIC = "public"
_NOBODY = "http://127.0.0.1:9"

EXPECTED: dict[str, Scope | str] = {
    "GET /": PUBLIC,
    "GET /page.js": PUBLIC,
    "GET /page.css": PUBLIC,
    "GET /compare": PUBLIC,
    "GET /compare.js": PUBLIC,
    "GET /healthz": PUBLIC,
    "GET /readyz": PUBLIC,
    "GET /static-offline-docs": PUBLIC,
    "POST /session": PUBLIC,
    "DELETE /session": PUBLIC,
    "GET /session": Scope.READ,
    "GET /openapi.json": Scope.READ,
    "GET /docs": Scope.READ,
    "GET /docs/oauth2-redirect": Scope.READ,
    "POST /jobs": Scope.SUBMIT,
    "POST /jobs:validate": Scope.READ,
    "GET /jobs": Scope.READ,
    "GET /jobs/{job_id}": Scope.READ,
    "PATCH /jobs/{job_id}": Scope.SUBMIT,
    "DELETE /jobs/{job_id}": Scope.SUBMIT,
    "GET /jobs/{job_id}/attempts": Scope.READ,
    "GET /jobs/{job_id}/events": Scope.READ,
    "GET /jobs/{job_id}/frames": Scope.READ,
    "GET /jobs/{job_id}/frames/{step}": Scope.READ,
    "GET /jobs/{job_id}/logs": Scope.READ,
    "POST /jobs/{job_id}/cancel": Scope.SUBMIT,
    "POST /jobs/{job_id}/pause": Scope.SUBMIT,
    "POST /jobs/{job_id}/resume": Scope.SUBMIT,
    "POST /jobs/{job_id}/retry": Scope.SUBMIT,
    "GET /jobs/{job_id}/trials": Scope.READ,
    "GET /jobs/{job_id}/trials/{number}": Scope.READ,
    "GET /jobs/{job_id}/trials/{number}/frames/{step}": Scope.READ,
    "POST /jobs/{job_id}/trials/{number}:promote": Scope.PROMOTE,
    "GET /jobs/{job_id}/pairs": Scope.READ,
    "POST /jobs/{job_id}/pairs/{pair}": Scope.SUBMIT,
    "POST /reconstruct": Scope.READ,
    "GET /models": Scope.READ,
    "GET /models/{name}": Scope.READ,
    "POST /models/{name}/versions/{version}:promote": Scope.PROMOTE,
    "POST /models/{name}:rollback": Scope.PROMOTE,
    "POST /models:rollback": Scope.PROMOTE,
    "GET /disk": Scope.READ,
    "GET /retention": Scope.ADMIN,
    "POST /retention:apply": Scope.ADMIN,
    "GET /nodes": Scope.READ,
    "GET /cluster/join": Scope.ADMIN,
    "GET /metrics": Scope.READ,
    "POST /tokens": Scope.ADMIN,
    "GET /tokens": Scope.ADMIN,
    "DELETE /tokens/{token_id}": Scope.ADMIN,
    "GET /audit": Scope.ADMIN,
    "GET /mlflow": Scope.READ,
    "GET /mlflow/{path:path}": Scope.READ,
    "POST /mlflow/{path:path}": Scope.READ,
    **{f"{method} /mlflow/{{path:path}}": Scope.ADMIN for method in ("PUT", "PATCH", "DELETE")},
    "GET /ray": Scope.ADMIN,
    **{f"{method} /ray/{{path:path}}": Scope.ADMIN for method in ("GET", "POST", "PUT", "PATCH", "DELETE")},
}
"""Whom each route is for, as decided, whatever the route itself declares."""


def make_door(home: Path, **changes: object) -> tuple[Door, Store]:
    nobody = {"mlflow_url": _NOBODY, "ray_url": _NOBODY}
    settings = Settings(home=home, reconcile=False, inference=False, tokens=True, rate_limit=0).model_copy(
        update=nobody
    )
    (home / "control").mkdir(exist_ok=True)
    store = Store(settings.database)
    store.migrate()
    return Door(create_app(settings.model_copy(update=changes), FakeLauncher(), store, FakeTracking())), store


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    made, store = make_door(tmp_path_factory.mktemp("home"))
    yield made
    store.close()


@pytest.fixture
def job_id(door: Door) -> str:
    """A job of ada's, in the queue."""
    return door.context.job_service.submit(job_spec.validate_python({"name": "a"}), owner="ada").id


def routes_of(app: FastAPI) -> dict[str, Scope | None]:
    built_in = ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/static-offline-docs")
    table = RouteTable(dict.fromkeys(built_in))
    table.load(app)
    return {
        f"{method} {route.path}": route.scope
        for route in table.routes
        for method in (route.methods - {"HEAD"} or {"GET"})
    }


def test_every_route_is_in_the_table(door: Door) -> None:
    assert routes_of(door.app).keys() == EXPECTED.keys()


@pytest.mark.parametrize("needs_tokens", [True, False])
def test_the_reference_says_what_each_operation_needs(tmp_path: Path, needs_tokens: bool) -> None:
    made, store = make_door(tmp_path, tokens=needs_tokens)
    store.close()
    document = made.app.openapi()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    operations = {
        f"{method.upper()} {path}": operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    assert len(operations) > 30
    assert "security" not in document, "each operation says it for itself"
    for name, operation in operations.items():
        wanted = EXPECTED[name]
        if wanted == PUBLIC:
            assert operation["security"] == []
            assert operation["description"].endswith("Needs no token.")
        else:
            assert operation["security"] == [{"token": [str(wanted)]}, *([] if needs_tokens else [{}])], name
            assert operation["description"].endswith(f"Needs a token with the scope `{wanted}`.")
            assert {"401", "403"} <= operation["responses"].keys()


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("caller", Caller)
def test_who_gets_past_the_door(door: Door, job_id: str, name: str, caller: Caller) -> None:
    """A caller who may ask gets any answer but 401 and 403: what the answer is, other tests say."""
    method, path = name.split()
    wanted = EXPECTED[name]
    path = path_of(path, job_id)
    # Deliberately no body: who may not ask is refused before that is looked at.
    # Each route's strangers from another address: one may fail a hundred times at once.
    address = f"192.0.2.{list(EXPECTED).index(name)}"
    answer = asyncio.run(door.ask(caller, method, path, address=address))
    status = answer.status_code
    if wanted == PUBLIC:
        assert status not in (401, 403), answer.text
    elif caller in STRANGERS:
        assert status == 401, answer.text
        assert answer.headers["www-authenticate"] == "Bearer"
    else:
        assert isinstance(wanted, Scope)
        assert (status == 403) is (not _may(caller, wanted, "{job_id}" in name)), answer.text
        assert status != 401
        assert status < 500 or "SEQAE_INFERENCE" in answer.text or "does not answer" in answer.text, answer.text
    secret = door.secrets[caller]
    assert not secret or secret not in answer.text


def path_of(path: str, job_id: str) -> str:
    """A request's path for a route's."""
    path = path.replace("{path:path}", "ajax-api/2.0/mlflow/runs/search")
    made = path.format(job_id=job_id, step="latest", number="0", pair="0", name="m", version="1", token_id="tok_0")
    return f"{made}/redoc.js" if path == "/static-offline-docs" else made


def _may(caller: Caller, scope: Scope, is_of_a_job: bool) -> bool:
    match caller:
        case Caller.ADMIN:
            return True
        case Caller.READ_ONLY:
            return scope is Scope.READ
        case Caller.OTHER_OWNER:
            return scope is Scope.READ or (scope in (Scope.SUBMIT, Scope.PROMOTE) and not is_of_a_job)
        case _:
            return scope is not Scope.ADMIN


@pytest.mark.parametrize("name", EXPECTED)
def test_no_page_of_others_gets_past_with_an_admins_token(door: Door, job_id: str, name: str) -> None:
    method, path = name.split()
    path = path_of(path, job_id)
    foreign = asyncio.run(door.ask(Caller.ADMIN, method, path, host="evil.example"))
    assert foreign.status_code == 421
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        status = asyncio.run(door.ask(Caller.ADMIN, method, path, headers=headers)).status_code
        assert (status == 403) is (method != "GET"), (headers, status)
    preflight = asyncio.run(door.ask(Caller.ADMIN, "OPTIONS", path, headers={"Origin": "http://evil.example"}))
    assert not [header for header in preflight.headers if header.startswith("access-control")]


@pytest.mark.parametrize("caller", STRANGERS)
def test_nothing_is_told_about_what_is_not_there(door: Door, caller: Caller) -> None:
    for method, path in (("GET", "/nothing/here"), ("PUT", "/jobs"), ("GET", "/jobs/job_0"), ("GET", "/jobs/../jobs")):
        assert asyncio.run(door.ask(caller, method, path)).status_code == 401


def test_a_stranger_s_body_is_not_looked_at(door: Door) -> None:
    answer = asyncio.run(door.ask(Caller.NO_TOKEN, "POST", "/jobs", headers={"Content-Type": "application/json"}))
    assert answer.status_code == 401


def test_a_route_that_declares_nothing_keeps_the_app_from_being_made(door: Door) -> None:
    app = FastAPI(openapi_url=None)
    app.add_api_route("/open", lambda: None)
    with pytest.raises(TypeError, match="/open must declare"):
        RouteTable({}).load(app)
    twice = FastAPI(openapi_url=None)
    twice.add_api_route("/twice", lambda: None, dependencies=[needs(Scope.READ), needs(Scope.ADMIN)])
    with pytest.raises(TypeError, match="/twice must declare"):
        RouteTable({}).load(twice)
    assert Requires(None).scope is None


def test_where_jobs_are_private_others_are_not_there(tmp_path: Path) -> None:
    door, store = make_door(tmp_path, private_jobs=True)
    mine = door.context.job_service.submit(job_spec.validate_python({"name": "a"}), owner="ada").id

    async def statuses(caller: Caller) -> tuple[int, int, int, list[str]]:
        one = await door.ask(caller, "GET", f"/jobs/{mine}")
        change = await door.ask(caller, "POST", f"/jobs/{mine}/pause")
        listed = (await door.ask(caller, "GET", "/jobs")).json()["items"]
        asked_for = await door.ask(caller, "GET", "/jobs?owner=ada")
        return one.status_code, change.status_code, len(asked_for.json()["items"]), [job["id"] for job in listed]

    assert asyncio.run(statuses(Caller.OTHER_OWNER)) == (404, 404, 0, [])
    assert asyncio.run(statuses(Caller.OWNER)) == (200, 200, 1, [mine])
    assert asyncio.run(statuses(Caller.ADMIN)) == (200, 200, 1, [mine])
    disk = asyncio.run(door.ask(Caller.OTHER_OWNER, "GET", "/disk")).json()
    assert disk["owners"] == disk["jobs"] == []
    store.close()
