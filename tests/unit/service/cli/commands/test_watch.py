"""Verbs that watch a job, against a service that is a function."""

import json
from pathlib import Path

import httpx
import pytest

from seqae.errors import Error
from tests.unit.service.cli.conftest import FakeService, Run, as_json, make_job

JOB = make_job(1)


@pytest.fixture(autouse=True)
def one_job(service: FakeService) -> None:
    service.jobs = [JOB]


def test_logs_are_printed_as_they_are_or_as_an_object_a_line(run: Run, service: FakeService) -> None:
    pieces = (b"one\ntw", b"o\n", b"th\xc3\xa4ree")
    service.answers[f"GET /jobs/{JOB.id}/logs"] = lambda _: httpx.Response(
        200, headers={"Content-Type": "text/plain; charset=utf-8"}, content=iter(pieces)
    )
    assert run("logs", "1", "--tail", "9", "--attempt", "2").stdout == "one\ntwo\nthäree"
    assert dict(service.requests[-1].url.params) == {"follow": "false", "attempt": "2", "tail": "9"}
    lines = run("logs", "1", "--json", "--follow").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [{"line": "one"}, {"line": "two"}, {"line": "thäree"}]


def test_events_are_a_line_each(run: Run, service: FakeService) -> None:
    data = {"to": "RUNNING", "loss": 0.123456789, "none": None, "list": [1], "text": "\x1b[31m a\nb"}
    event = {"id": 7, "job_id": JOB.id, "at": "2026-01-01T00:00:00Z", "type": "transition", "data": data}
    text = f"id: 7\nevent: transition\ndata: {json.dumps(event)}\n\nevent: end\ndata: {{}}\n\n"
    service.answers[f"GET /jobs/{JOB.id}/events"] = lambda _: httpx.Response(
        200, headers={"Content-Type": "text/event-stream"}, content=text.encode()
    )
    (line,) = run("events", "1", "--after", "3").stdout.splitlines()
    assert service.requests[-1].url.params["after"] == "3"
    assert line.split()[0] == "7"
    assert line.endswith("to=RUNNING  loss=0.12346  list=[1]  text= [31m a b")
    (plain,) = run("events", "1", "--json").stdout.splitlines()
    assert json.loads(plain)["data"]["to"] == "RUNNING"


def test_film_strips_are_listed_or_written(run: Run, service: FakeService, tmp_path: Path) -> None:
    service.answers[f"GET /jobs/{JOB.id}/frames"] = lambda _: as_json({"steps": [20, 40]})
    for step in ("latest", "20"):
        service.answers[f"GET /jobs/{JOB.id}/frames/{step}"] = lambda request: httpx.Response(
            200, content=request.url.path.encode()
        )
    assert run("frames", "1").stdout == "20\n40\n"
    assert json.loads(run("frames", "1", "--json").stdout) == {"steps": [20, 40]}
    out = tmp_path / "new" / "a.png"
    assert run("frames", "1", "-o", str(out)).stdout == f"{out}\n"
    assert out.read_text().endswith("/latest")
    assert json.loads(run("frames", "1", "-o", str(out), "--step", "20", "--json").stdout) == {"file": str(out)}
    assert out.read_text().endswith("/20")
    assert isinstance(run("frames", "1", "-o", "a.gif").exception, Error)
