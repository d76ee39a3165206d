"""Traces: one for each job, from its request to its workers, with nothing of the user's in it."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from jobs.directory.records import Outcome, Result
from jobs.driver import DriverContext, drive
from jobs.telemetry.log_records import current_traceparent
from jobs.telemetry.tracing import Tracing, make_tracing, valid_traceparent
from seqae.errors import Error

PARENT = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Iterator[Tracing]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Tracing(provider)
    provider.shutdown()


def _only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (found,) = exporter.get_finished_spans()
    return found


def test_a_span_is_below_the_one_of_another_process(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    with tracing.span("outer", {"seqae.attempt": 1}, parent=PARENT) as outer:
        assert current_traceparent.get() == outer.traceparent
        with tracing.span("inner") as inner:
            assert (inner.traceparent or "").split("-")[1] == "ab" * 16
    assert current_traceparent.get() is None
    found = {span.name: span for span in exporter.get_finished_spans()}
    assert found["outer"].parent is not None
    assert found["inner"].parent is not None
    assert found["outer"].parent.span_id == int("cd" * 8, 16)
    assert found["inner"].parent.span_id == found["outer"].context.span_id


def test_an_error_leaves_its_kind_and_not_its_message(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="secret"), tracing.span("work"):
        raise ValueError("a secret path")
    span = _only(exporter)
    assert span.status.status_code.name == "ERROR"
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert "secret" not in span.to_json()
    assert span.events == ()


@pytest.mark.parametrize("text", [None, "", "x", PARENT[:-1], f"01{PARENT[2:]}", PARENT.upper(), f"{PARENT}\n"])
def test_what_is_no_traceparent_is_none(text: str | None, tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    assert valid_traceparent(text) is None
    with tracing.span("work", parent=text):
        pass
    assert _only(exporter).parent is None


@pytest.mark.parametrize("ids", [f"00-{'0' * 32}-{'cd' * 8}-01", f"00-{'ab' * 16}-{'0' * 16}-01"])
def test_ids_of_zeros_are_none(ids: str) -> None:
    assert valid_traceparent(ids) is None


def test_traces_are_off_by_default_and_import_nothing() -> None:
    program = (
        "import sys; from jobs.telemetry.tracing import make_tracing\n"
        "tracing = make_tracing('', 'api')\n"
        "with tracing.span('x') as span: span.set('a', 1); span.fail('E'); assert span.traceparent is None\n"
        "tracing.stop()\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(Error, match=r"pip install 'seqae\[traces\]'"):
        make_tracing("http://127.0.0.1:4318", "api")


class _Receiver(BaseHTTPRequestHandler):
    """Takes spans as a collector does, and notes where they came to."""

    paths: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.paths.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_spans_are_sent_to_a_receiver() -> None:
    paths: list[str] = []
    server = HTTPServer(("127.0.0.1", 0), type("Receiver", (_Receiver,), {"paths": paths}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        tracing = make_tracing(f"http://127.0.0.1:{server.server_port}/", "api")
        with tracing.span("work"):
            pass
        tracing.stop()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert paths == ["/v1/traces"]


PROGRAM = """
import sys
from jobs.directory.records import Outcome, Result
from jobs.driver import drive
sys.exit(drive(lambda context: Result(outcome=Outcome.SUCCEEDED)))
"""


@pytest.mark.parametrize("target", ["http://127.0.0.1:9", "console"])
def test_a_driver_ends_soon_whoever_receives_its_spans(tmp_path: Path, target: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--job-dir", str(tmp_path / "job_x"), "--attempt", "2"],
        env={**os.environ, "SEQAE_TRACES": target, "TRACEPARENT": PARENT},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    if target == "console":
        (line,) = [line for line in done.stderr.splitlines() if '"attempt"' in line]
        for said in ("0x" + "ab" * 16, '"seqae.job.id": "job_x"', '"seqae.outcome": "succeeded"', "seqae-driver"):
            assert said in line


def test_what_the_driver_starts_is_below_its_attempt(
    tmp_path: Path, tracing: Tracing, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers get the driver's span by `current_traceparent`, as Ray Train's config hands it on."""
    monkeypatch.setenv("TRACEPARENT", PARENT)
    monkeypatch.setattr("jobs.driver.tracing_of_job", lambda _part: tracing)
    seen: list[str | None] = []

    def work(context: DriverContext) -> Result:
        seen.append(current_traceparent.get())
        return Result(outcome=Outcome.SUCCEEDED)

    assert drive(work, ["--job-dir", str(tmp_path / "job_x"), "--attempt", "1"]) == 0
    span = _only(exporter)
    assert span.context.trace_id == int("ab" * 16, 16)
    assert seen == [f"00-{'ab' * 16}-{span.context.span_id:016x}-01"]
