"""One trace from the request that submits a job to what its driver is started with, by in-memory spans."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from jobs.backends.fakes import FakeLauncher, FakeTracking
from jobs.telemetry.tracing import Tracing
from seqae.errors import Error
from service.api.dependencies import AppContext
from service.app import create_app
from service.db.store import Store
from service.scopes import Scope
from service.settings import Settings
from tests.unit.service.conftest import Serve

CLIENT = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Iterator[Tracing]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Tracing(provider)
    provider.shutdown()


def _named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


def _until(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    end = time.monotonic() + 30
    while not (found := _named(exporter, name)):
        assert time.monotonic() < end, [span.name for span in exporter.get_finished_spans()]
        time.sleep(0.05)
    return found[0]


def test_a_job_is_one_trace(
    tmp_path: Path,
    store: Store,
    launcher: FakeLauncher,
    tracking: FakeTracking,
    serve: Serve,
    tracing: Tracing,
    exporter: InMemorySpanExporter,
) -> None:
    settings = Settings(home=tmp_path, tokens=True, reconcile_every=0.05, inference=False)
    app = create_app(settings, launcher, store, tracking, tracing=tracing)
    context = app.state.context
    assert isinstance(context, AppContext)
    _, secret = context.tokens.create("hopper", [Scope.SUBMIT])
    client = serve(app)
    bearer = {"Authorization": f"Bearer {secret}"}
    spec = {"kind": "train", "name": "confidential"}
    made = client.post("/jobs?x=confidential", json=spec, headers={**bearer, "traceparent": CLIENT})
    job = made.json()["id"]
    request = _until(exporter, "POST /jobs")
    submission = _until(exporter, "submit attempt")
    assert request.kind.name == "SERVER"
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/jobs",
        "http.response.status_code": 201,
    }
    assert dict(submission.attributes or {}) == {"seqae.job.id": job, "seqae.attempt": 1, "seqae.job.kind": "train"}
    trace = int("ab" * 16, 16)
    assert request.context.trace_id == submission.context.trace_id == trace, "as the client said"
    assert request.parent is not None
    assert submission.parent is not None
    assert request.parent.span_id == int("cd" * 8, 16)
    assert submission.parent.span_id == request.context.span_id
    environment = launcher.submissions[f"{job}-1"].environment
    assert environment["TRACEPARENT"] == f"00-{'ab' * 16}-{submission.context.span_id:016x}-01"
    assert {str((span.attributes or {})["seqae.part"]) for span in _named(exporter, "reconcile")} >= {"admit"}
    everything = "".join(span.to_json() for span in exporter.get_finished_spans())
    for secret_text in ("confidential", secret, "hopper"):
        assert secret_text not in everything


def test_requests_are_named_by_their_route(
    settings: Settings,
    store: Store,
    launcher: FakeLauncher,
    tracking: FakeTracking,
    serve: Serve,
    tracing: Tracing,
    exporter: InMemorySpanExporter,
) -> None:
    client = serve(create_app(settings, launcher, store, tracking, tracing=tracing))
    client.get("/jobs/job_none")
    client.get("/no/such/thing")
    client.get("/jobs", headers={"traceparent": "00-hostile"})
    found = [_until(exporter, name) for name in ("GET /jobs/{job_id}", "GET", "GET /jobs")]
    assert [(span.attributes or {})["http.response.status_code"] for span in found] == [404, 404, 200]
    assert all(span.parent is None for span in found)


def test_without_traces_events_and_drivers_are_as_before(client: httpx.Client, store: Store) -> None:
    job = client.post("/jobs", json={"kind": "train", "name": "a"}, headers={"traceparent": CLIENT}).json()["id"]
    (event,) = store.events(job_id=job)
    assert event.data.keys() == {"from", "to", "reason", "attempt"}


@pytest.mark.parametrize("target", ["collector:4318", "ftp://collector", "http://", "http://user:word@collector"])
def test_an_address_that_takes_no_spans_is_refused(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQAE_TRACES", target)
    with pytest.raises(Error, match="SEQAE_TRACES") as refused:
        Settings.from_environment()
    assert "word" not in str(refused.value).replace("password", "")
