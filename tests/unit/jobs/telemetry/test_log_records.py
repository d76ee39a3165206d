"""What a process writes into its log."""

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from jobs.telemetry.log_records import (
    JsonFormatter,
    LogFormat,
    LogRecordLine,
    TextFormatter,
    current_job,
    current_request,
    current_traceparent,
    format_named,
    make_handler,
    without_secrets,
)

TOKEN = "seqae_" + "aB3-" * 10 + "xyz"
SECRETS = {
    "a token of ours": TOKEN,
    "a bearer": "abcDEF123.-_~+/456==",
    "a JWT": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl",
    "a key of webhooks": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "a password": "hunter2-hunter2",
}
SAID = (
    f"found {TOKEN}; Authorization: Bearer {SECRETS['a bearer']}; {SECRETS['a JWT']}; {SECRETS['a key of webhooks']}; "
    f"postgresql://ada:{SECRETS['a password']}@db/jobs; /x?token={SECRETS['a password']}&y=1"
)


def _record(message: str, *arguments: object, name: str = "service.x", error: BaseException | None = None) -> Any:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord(name, logging.WARNING, "x.py", 1, message, arguments, exc_info)


def _fields(line: str) -> dict[str, Any]:
    assert "\n" not in line
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def test_a_line_is_an_object_with_what_is_known() -> None:
    fields = _fields(JsonFormatter().format(_record("%d jobs\nof %s", 3, "\ud800é")))
    assert fields.pop("time").endswith("+00:00")
    assert fields == {"level": "WARNING", "logger": "service.x", "message": "3 jobs\nof \\ud800é"}


def test_ids_of_request_job_and_trace_are_in_the_line() -> None:
    tokens = current_request.set("r1"), current_job.set("j1"), current_traceparent.set("00-t1-s1-01")
    try:
        fields = _fields(JsonFormatter(job_id="j2").format(_record("x")))
    finally:
        current_request.reset(tokens[0])
        current_job.reset(tokens[1])
        current_traceparent.reset(tokens[2])
    assert (fields["request_id"], fields["job_id"], fields["trace_id"]) == ("r1", "j1", "t1")
    assert _fields(JsonFormatter(job_id="j2").format(_record("x")))["job_id"] == "j2", "of the whole process"


def _failed() -> ValueError:
    try:
        raise ValueError(SAID)
    except ValueError as error:
        return error


def test_an_exception_is_a_field_that_ends_with_the_error() -> None:
    fields = _fields(JsonFormatter().format(_record("it failed", error=_failed())))
    assert fields["message"] == "it failed"
    assert fields["exception"].startswith("Traceback")
    assert fields["exception"].splitlines()[-1].startswith("ValueError: found ")


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_no_secret_is_in_a_line(formatter: logging.Formatter) -> None:
    line = formatter.format(_record("said: %s", SAID, error=_failed()))
    assert [name for name, secret in SECRETS.items() if secret in line] == []
    assert "postgresql://ada:***@db/jobs" in line
    assert "y=1" in line


def test_what_is_no_secret_stays() -> None:
    for text in ("seqae_http_request_seconds", "job seqae_x", "http://host:80/a@b", "the token is missing", "a=b"):
        assert without_secrets(text) == text


def test_an_access_line_is_taken_apart_without_its_query() -> None:
    arguments = ("127.0.0.1:5", "GET", f"/jobs?cursor=x&key={TOKEN}", "1.1", 200)
    record = _record('%s - "%s %s HTTP/%s" %d', *arguments, name="uvicorn.access")
    line = LogRecordLine.model_validate_json(JsonFormatter().format(record))
    assert (line.client, line.method, line.path, line.status) == ("127.0.0.1:5", "GET", "/jobs", 200)
    assert line.message == "GET /jobs 200"


def test_long_messages_are_cut_at_their_end_and_exceptions_at_their_begin() -> None:
    try:
        raise ValueError("z" * 30_000 + "end")
    except ValueError as error:
        line = JsonFormatter().format(_record("a" * 50_000 + "b", error=error))
    fields = _fields(line)
    assert len(line) < 45_000
    assert fields["message"] == "a" * 20_000
    assert fields["exception"].endswith("end")


def test_a_name_that_is_no_format_means_text() -> None:
    assert [format_named(name) for name in (None, "", "text", "yaml", "JSON", " json ")] == [
        *[LogFormat.TEXT] * 4,
        *[LogFormat.JSON] * 2,
    ]
    assert isinstance(make_handler(LogFormat.TEXT).formatter, TextFormatter)
    assert isinstance(make_handler(LogFormat.JSON).formatter, JsonFormatter)


PROGRAM = """
import logging, sys, threading, warnings
from jobs.telemetry.log_records import LogFormat, configure_logging
configure_logging(LogFormat(sys.argv[1]), job_id="j1")
logging.getLogger("a").info("begins")
warnings.warn("old")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise KeyError("lost")
"""


def test_what_nobody_caught_is_logged_in_json() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, "json"], capture_output=True, text=True, timeout=60)
    lines = [LogRecordLine.model_validate_json(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert [(line.level, line.logger) for line in lines] == [
        ("INFO", "a"),
        ("WARNING", "py.warnings"),
        ("CRITICAL", "jobs.telemetry.log_records"),
        ("CRITICAL", "jobs.telemetry.log_records"),
    ]
    ends = [(line.exception or "").splitlines()[-1] for line in lines[2:]]
    assert ends == ["ZeroDivisionError: division by zero", "KeyError: 'lost'"]
    assert {line.job_id for line in lines} == {"j1"}
