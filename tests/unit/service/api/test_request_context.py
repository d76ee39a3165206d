"""Ids of requests, in answers and in the log."""

import io
import logging
from collections.abc import Iterator

import httpx
import pytest

from jobs.telemetry.log_records import LogFormat, LogRecordLine, make_handler
from service.db.queries import Queries
from tests.daemons import wait_until
from tests.unit.service.conftest import MakeApp, Serve


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the root logger says, in JSON."""
    root, level, access, written = logging.getLogger(), logging.getLogger().level, _access_logger(), io.StringIO()
    handler = make_handler(LogFormat.JSON, stream=written)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    before, access.propagate = access.propagate, True
    yield written
    access.propagate = before
    root.setLevel(level)
    root.removeHandler(handler)


def _access_logger() -> logging.Logger:
    return logging.getLogger("uvicorn.access")


def _lines(written: io.StringIO) -> list[LogRecordLine]:
    return [LogRecordLine.model_validate_json(line) for line in written.getvalue().splitlines()]


def test_each_answer_has_an_id_that_a_proxy_may_give(client: httpx.Client) -> None:
    made = {client.get(path).headers["X-Request-ID"] for path in ("/healthz", "/nothing", "/jobs", "/jobs")}
    assert len(made) == 4
    given = client.get("/healthz", headers={"X-Request-ID": "proxy-1.a_b"})
    assert given.headers["X-Request-ID"] == "proxy-1.a_b"
    for hostile in ("a b", "x" * 65, '"}{', "", "a\tb"):
        assert client.get("/healthz", headers={"X-Request-ID": hostile}).headers["X-Request-ID"] != hostile


def test_access_lines_and_errors_have_the_ids_of_request_and_job(
    make_app: MakeApp, serve: Serve, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(make_app(log_format=LogFormat.JSON))

    def fail(_self: Queries, job_id: str) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Queries, "job", fail)
    client.get("/healthz", headers={"X-Request-ID": "r2"})
    token = "seqae_" + "x" * 43
    headers = {"X-Request-ID": "r1", "Authorization": f"Bearer {token}"}
    answer = client.get(f"/jobs/j1?token={token}", headers=headers)
    assert answer.status_code == 500
    assert answer.headers["X-Request-ID"] == "r1"
    # The answer goes out before the server logs the error.
    wait_until(lambda: any(line.exception for line in _lines(log)), "the error is logged", 10)
    lines = _lines(log)
    (failed,) = [line for line in lines if line.exception]
    assert (failed.request_id, failed.job_id) == ("r1", "j1")
    assert (failed.exception or "").endswith("RuntimeError: a bug")
    accesses = [line for line in lines if line.logger == "uvicorn.access"]
    assert [(line.request_id, line.job_id, line.path, line.status) for line in accesses] == [
        ("r2", None, "/healthz", 200),
        ("r1", "j1", "/jobs/j1", 500),
    ]
    assert token not in log.getvalue()


def test_logs_in_text_have_no_access_lines(make_app: MakeApp, serve: Serve, log: io.StringIO) -> None:
    assert serve(make_app()).get("/healthz").status_code == 200
    assert [line for line in _lines(log) if line.logger == "uvicorn.access"] == []
