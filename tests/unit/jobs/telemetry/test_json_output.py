"""What libraries print in a driver, as JSON lines."""

import io
import os
import subprocess
import sys
from pathlib import Path

from jobs.telemetry.json_output import JsonOutput
from jobs.telemetry.log_records import LogRecordLine


def _lines(text: str) -> list[LogRecordLine]:
    return [LogRecordLine.model_validate_json(line) for line in text.splitlines()]


def test_each_line_becomes_json_and_a_line_that_is_stays() -> None:
    below = io.StringIO()
    output = JsonOutput(below, "stderr", "j1")
    own = LogRecordLine(time="t", level="ERROR", logger="jobs.x", message="m", job_id="j2").model_dump_json()
    print("half ", end="", file=output)
    print(f"a line\r\n\n(RayTrainWorker pid=7, ip=10.0.0.1) {own}", file=output)
    print(f"(RayTrainWorker pid=7) says\n(no worker) {own}\n{own}", file=output)
    print("Bearer abcdefghijkl, then the end", end="", file=output, flush=True)
    lines = _lines(below.getvalue())
    assert [(line.logger, line.worker, line.job_id) for line in lines] == [
        ("stderr", None, "j1"),
        ("jobs.x", "RayTrainWorker pid=7, ip=10.0.0.1", "j2"),
        ("stderr", "RayTrainWorker pid=7", "j1"),
        ("stderr", None, "j1"),
        ("jobs.x", None, "j2"),
        ("stderr", None, "j1"),
    ]
    assert lines[0].message == "half a line"
    assert lines[2].message == "says"
    assert lines[-1].message == "Bearer ***, then the end"


PROGRAM = """
import sys
from jobs.directory.records import Outcome, Result
from jobs.driver import drive

def work(context):
    print("from a library")
    print("half", end="", file=sys.stderr)
    raise MemoryError("too much")

sys.exit(drive(work))
"""


def test_every_line_of_a_driver_is_json_with_its_job(tmp_path: Path) -> None:
    """The exception of the attempt is a field of its line, and what is left of a line comes at the end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--job-dir", str(tmp_path / "j1"), "--attempt", "1"],
        env={**os.environ, "SEQAE_LOG_FORMAT": "json", "SEQAE_JOB_ID": "j1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = _lines(done.stdout + done.stderr)
    assert {line.job_id for line in lines} == {"j1"}
    assert {"from a library", "half", "the attempt failed"} <= {line.message for line in lines}
    (failed,) = [line for line in lines if line.exception]
    assert (failed.exception or "").endswith("MemoryError: too much")
