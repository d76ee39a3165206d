"""What Prometheus reads, and that dashboard, alerts and documentation speak of what there is."""

import json
import re
import shutil
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from jobs.backends.fakes import FakeTracking
from jobs.errors import ErrorClass
from jobs.interfaces import Capacity, NodeCapacity
from service.db.models import JobRow
from service.db.store import Store
from service.errors import StoreUnavailableError
from service.inference.model_pool import ModelPool
from service.scheduling.admission import plan
from service.settings import ReconcilerSettings, Settings
from tests.control_plane import ControlPlane
from tests.unit.service.conftest import MakeApp

ROOT = Path(__file__).parents[5]
DASHBOARD = ROOT / "deploy/monitoring/dashboard.json"
ALERTS = ROOT / "deploy/monitoring/alerts.yaml"
OPERATIONS = ROOT / "docs/operations.md"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(client: httpx.Client) -> Samples:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of_requests(samples: Samples) -> dict[tuple[str, str], float]:
    return {
        (dict(labels)["route"], dict(labels)["status"]): number
        for (name, labels), number in samples.items()
        if name == "seqae_http_request_seconds_count"
    }


def test_two_owners_who_flood_the_queue_get_on_alike(client: httpx.Client, store: Store) -> None:
    """The first one's jobs fill the head of the queue many times over, and the second one's first job is next still."""
    for owner, number in (("ann", 30), ("bob", 10)):
        for _ in range(number):
            assert client.post("/jobs", json={"name": "x"}, headers={"Seqae-Owner": owner}).status_code == 201
    capacity, settings = Capacity((NodeCapacity(cpus=64, gpus=0),)), ReconcilerSettings(max_concurrent_jobs=6)

    def choose(placed: list[JobRow], queue: list[JobRow]) -> list[JobRow]:
        return plan(placed, queue, capacity, settings, store.now()).admitted

    admitted = store.admit(choose, most=6)
    assert [job.owner for job in admitted] == ["ann", "bob"] * 3
    samples = scrape(client)
    for owner, queued in (("ann", 27), ("bob", 7)):
        assert samples["seqae_owner_jobs", (("owner", owner), ("state", "SUBMITTING"))] == 3
        assert samples["seqae_owner_jobs", (("owner", owner), ("state", "QUEUED"))] == queued
        assert 0 <= samples["seqae_owner_oldest_queued_seconds", (("owner", owner),)] < 60


def test_jobs_are_shown(client: httpx.Client) -> None:
    for _ in range(2):
        assert client.post("/jobs", json={"name": "digits"}, headers={"Seqae-Owner": 'a"'}).status_code == 201
    samples = scrape(client)
    assert samples["seqae_jobs", (("state", "QUEUED"),)] == 2
    assert samples["seqae_owner_jobs", (("owner", 'a"'), ("state", "QUEUED"))] == 2
    assert 0 <= samples["seqae_oldest_queued_seconds", ()] < 60
    assert samples["seqae_disk_free_bytes", ()] > 0
    assert samples["seqae_database_up", ()] == 1
    assert samples["seqae_reconstruct_requests", ()] == 0


def test_requests_are_counted_by_template_whatever_address_they_name(client: httpx.Client) -> None:
    client.get("/jobs/job_1")
    client.get("/jobs/job_2")
    client.head("/healthz")
    for path in ("/a", "/b", "/jobs/x/y/z"):
        client.get(path)
    client.get("/healthz", headers={"Host": "evil.example"})
    found = of_requests(scrape(client))
    assert found == {
        ("/jobs/{job_id}", "404"): 2,
        ("/healthz", "200"): 1,
        ("(none)", "404"): 3,
        ("(none)", "421"): 1,
    }


def test_without_the_database_the_rest_is_shown(
    client: httpx.Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> None:
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(store.database, "read", gone)
    samples = scrape(client)
    assert samples["seqae_database_up", ()] == 0
    assert ("seqae_oldest_queued_seconds", ()) not in samples
    assert samples["seqae_disk_free_bytes", ()] > 0


def test_a_disk_that_is_gone_is_no_number(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: object) -> None:
        raise OSError("unmounted")

    monkeypatch.setattr(shutil, "disk_usage", gone)
    free = scrape(client)["seqae_disk_free_bytes", ()]
    assert free != free  # NaN


def test_batches_are_counted(make_app: MakeApp, tracking: FakeTracking, settings: Settings) -> None:
    inference = ModelPool(tracking, settings)
    app = make_app(inference)
    inference.batcher.on_batch(3)
    registry = app.state.context.metrics.registry
    assert registry.get_sample_value("seqae_reconstruct_batch_size_sum") == 3


def test_queue_time_and_lost_attempts_are_counted(plane: ControlPlane) -> None:
    _, driver = plane.running()
    registry = plane.reconciler.metrics.registry
    assert registry.get_sample_value("seqae_queue_seconds_count") == 1
    driver.beat(1)
    driver.fail(ErrorClass.INFRASTRUCTURE)
    plane.tick()
    assert registry.get_sample_value("seqae_attempts_lost_total", {"error_class": "infrastructure"}) == 1


# --- the files beside it


def queries() -> dict[str, list[str]]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {
        "dashboard": [target["expr"] for panel in panels for target in panel["targets"]],
        "alerts": [rule["expr"] for group in groups for rule in group["rules"]],
    }


def known(client: httpx.Client) -> set[str]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    names: set[str] = set()
    for family in families:
        suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


@pytest.mark.parametrize("where", ["dashboard", "alerts"])
def test_every_metric_that_is_named_exists(client: httpx.Client, where: str) -> None:
    named = {name for query in queries()[where] for name in re.findall(r"\bseqae_\w+", query)}
    assert len(named) >= 4
    assert named - known(client) == set()


def test_every_metric_and_alert_is_documented(client: httpx.Client) -> None:
    text = OPERATIONS.read_text()
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert len(rules) >= 5
    assert [rule["alert"] for rule in rules if f"| `{rule['alert']}` |" not in text] == []
    written = set(re.findall(r"^\| `(Seqae\w+)` \|", text, re.MULTILINE))
    assert written == {rule["alert"] for rule in rules}
    families = {
        family.name.removesuffix("_created") for family in text_string_to_metric_families(client.get("/metrics").text)
    }
    assert [name for name in sorted(families) if name.startswith("seqae_") and f"`{name}" not in text] == []
