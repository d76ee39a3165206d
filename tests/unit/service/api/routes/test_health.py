"""Readiness: what of its work a process can do."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from jobs.backends.fakes import FakeLauncher, FakeTracking
from jobs.errors import LauncherUnavailable, TrackingUnavailable
from jobs.interfaces import Capacity, ModelVersion
from seqae.errors import CheckpointError
from service.db.store import Store
from service.errors import StoreUnavailableError
from service.settings import Settings
from tests.unit.service.conftest import MakeApp, Serve

INSIDE = "http://10.0.0.3:5000 (host='mlflow.inside', port=5000)"


def _raise(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def _ready(client: httpx.Client, status: int) -> tuple[dict[str, bool], dict[str, bool]]:
    """What works, and which parts are well."""
    answer = client.get("/readyz")
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["ready"] is (status == 200)
    return body["works"], {name: part["ok"] for name, part in body["parts"].items()}


def test_everything_is_there_but_a_model(client: httpx.Client) -> None:
    """E4: a new installation is ready; the parts have what was always in them."""
    works, parts = _ready(client, 200)
    assert works == {"accept_jobs": True, "run_jobs": True, "reconstruct": False}
    assert parts == {"database": True, "disk": True, "cluster": True, "mlflow": True, "model": False}
    part = client.get("/readyz").json()["parts"]["model"]
    assert part.keys() == {"ok", "detail", "required"}


def test_without_ray_and_mlflow_it_does_its_own_work(
    client: httpx.Client, launcher: FakeLauncher, tracking: FakeTracking
) -> None:
    """E4: jobs are taken and wait, the champion is served: that is no reason to send users away."""
    launcher.unreachable = tracking.unreachable = True
    works, parts = _ready(client, 200)
    assert works == {"accept_jobs": True, "run_jobs": False, "reconstruct": False}
    assert not parts["cluster"]
    assert not parts["mlflow"]


def test_a_cluster_without_a_machine_runs_nothing(client: httpx.Client, launcher: FakeLauncher) -> None:
    """E4: it answers, and can't run jobs."""
    launcher.set_capacity(Capacity(()))
    works, parts = _ready(client, 200)
    assert (works["run_jobs"], parts["cluster"]) == (False, False)


def test_without_its_database_it_is_not_ready(
    client: httpx.Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E4: nothing of its own work is left."""
    monkeypatch.setattr(store.database, "ping", _raise(StoreUnavailableError(f"does not answer: {INSIDE}")))
    works, parts = _ready(client, 503)
    assert works == {"accept_jobs": False, "run_jobs": False, "reconstruct": False}
    assert [name for name, ok in parts.items() if not ok] == ["database", "model"]


def test_a_database_that_was_replaced_is_not_there(settings: Settings, store: Store, client: httpx.Client) -> None:
    """E4: a file that is empty now answers, but has none of the tables."""
    store.close()
    for path in (settings.home / "control").glob("jobs.db*"):
        path.unlink()
    assert not _ready(client, 503)[1]["database"]


def test_with_a_full_disk_it_is_not_ready(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """E4: the database still answers, and takes nothing."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    works, parts = _ready(client, 503)
    assert (works["accept_jobs"], parts["disk"], parts["database"]) == (False, False, True)


def test_a_disk_that_takes_no_file_is_full(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """E4: a quota, or a mount that became read-only, shows in no number."""
    monkeypatch.setattr(os, "fsync", _raise(OSError(28, "No space left on device", "/inside/home")))
    assert not _ready(client, 503)[1]["disk"]
    assert "/inside" not in client.get("/readyz").text


def test_no_probe_leaves_a_file_behind(client: httpx.Client, settings: Settings) -> None:
    """E4: it is asked every few seconds, for years."""
    before = sorted(settings.home.rglob("*"))
    for _ in range(3):
        _ready(client, 200)
    assert sorted(settings.home.rglob("*")) == before


def test_no_detail_shows_an_address_of_the_inside(
    client: httpx.Client, launcher: FakeLauncher, tracking: FakeTracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E5: what libraries say of an outage is for the log."""
    monkeypatch.setattr(launcher, "capacity", _raise(LauncherUnavailable(f"ConnectError {INSIDE}")))
    monkeypatch.setattr(tracking, "resolve", _raise(TrackingUnavailable(f"HTTPConnectionPool {INSIDE}")))
    monkeypatch.setattr(tracking, "models", _raise(TrackingUnavailable(f"HTTPConnectionPool {INSIDE}")))
    for path in ("/readyz", "/models"):
        text = client.get(path).text
        assert not [sign for sign in ("10.0.0.3", "5000", "inside", "://") if sign in text], text


@pytest.mark.parametrize("error", [CheckpointError("files are missing"), KeyError("seqae.job_id")])
def test_whatever_a_part_raises_is_that_parts_state(
    client: httpx.Client, tracking: FakeTracking, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A1, A5: a strange answer of the registry is never a failure of the health check."""
    monkeypatch.setattr(tracking, "resolve", _raise(error))
    works, _ = _ready(client, 200)
    assert works["accept_jobs"]


def test_a_loaded_model_is_served_without_the_others(
    make_app: MakeApp, serve: Serve, launcher: FakeLauncher, tracking: FakeTracking
) -> None:
    """E4: `works` tells a load balancer that pictures can be sent here."""
    loaded = SimpleNamespace(version=ModelVersion)
    inference = SimpleNamespace(
        champion=loaded, detail="version 1", start=lambda: None, stop=lambda: None, batcher=SimpleNamespace()
    )
    launcher.unreachable = tracking.unreachable = True
    works, parts = _ready(serve(make_app(inference)), 200)
    assert (works["reconstruct"], parts["model"]) == (True, True)


def test_what_stays_the_same_is_logged_once(
    client: httpx.Client, launcher: FakeLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    """E4: the page asks every ten seconds."""
    launcher.unreachable = True
    for _ in range(3):
        client.get("/readyz")
    assert caplog.text.count("cluster is not ready") == 1


def test_a_home_that_is_gone_is_said(make_app: MakeApp, serve: Serve, tmp_path: Path) -> None:
    """E4: an unmounted disk is no failure of the health check either."""
    client = serve(make_app(home=tmp_path / "gone"))
    assert not _ready(client, 503)[1]["disk"]
