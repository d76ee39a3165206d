"""`/retention`: what the limits on ended jobs would remove, and its removal."""

import httpx
import pytest

from jobs.backends.fakes import FakeTracking
from service.db.audit import AuditLog
from service.db.store import Store
from tests.unit.service.conftest import MakeApp, Serve


@pytest.fixture
def limited(make_app: MakeApp, serve: Serve) -> httpx.Client:
    """A client of a service that keeps one ended job of each owner."""
    return serve(make_app(max_ended_jobs_per_owner=1))


def ended(client: httpx.Client, owner: str) -> str:
    job_id = str(client.post("/jobs", json={"name": "digits"}, headers={"Seqae-Owner": owner}).json()["id"])
    assert client.post(f"/jobs/{job_id}/cancel").status_code == 200
    return job_id


def test_a_plan_is_shown_and_carried_out(limited: httpx.Client, store: Store) -> None:
    first, second, bobs = ended(limited, "ada"), ended(limited, "ada"), ended(limited, "bob")
    shown = limited.get("/retention").json()
    assert shown["limits"]["jobs_per_owner"] == 1
    assert [removal["job"] for removal in shown["removals"]] == [first]
    assert (shown["jobs"], shown["reports"]) == (1, [])
    assert limited.get(f"/jobs/{first}").status_code == 200, "nothing was changed"
    done = limited.post("/retention:apply").json()
    assert done["removals"] == shown["removals"]
    assert [report["removals"] for report in done["reports"]] == [shown["removals"]]
    assert [limited.get(f"/jobs/{job_id}").status_code for job_id in (first, second, bobs)] == [404, 200, 200]
    assert limited.get("/retention").json()["removals"] == []
    newest = AuditLog(store.database, store.now).page(None, 1)[0]
    assert (newest.action, newest.changed) == ("POST /retention:apply", {"job": first, "deleted": True})


def test_without_limits_nothing_is_over_one(client: httpx.Client) -> None:
    ended(client, "ada")
    assert client.post("/retention:apply").json()["removals"] == []


def test_while_the_registry_is_away_it_is_said_so(limited: httpx.Client, tracking: FakeTracking, store: Store) -> None:
    for _ in range(2):
        ended(limited, "ada")
    tracking.unreachable = True
    for answer in (limited.get("/retention"), limited.post("/retention:apply")):
        assert answer.status_code == 503
        assert answer.json()["type"].endswith("tracking-unavailable")
    assert len(store.page()[0]) == 2
