"""Standard output and error of a driver as JSON lines: what Ray and other libraries print past the loggers."""

import io
import re
import sys
import threading
from datetime import UTC, datetime
from typing import TextIO

from jobs.telemetry.log_records import LogRecordLine, without_secrets
from jobs.telemetry.log_text import parse_line

__all__ = ["JsonOutput", "print_as_json"]

_WORKER = re.compile(r"\(([^()]*\bpid=[^()]*)\)\s")
"""Before each line of a worker that Ray prints in the driver's output."""


class JsonOutput(io.TextIOBase):
    """Text stream that writes each line as a JSON line; those that are JSON lines already it passes on.

    Args:
        stream: where to.
        name: of the stream, which stands in place of a logger's.
        job_id: of the job that this process works for.
    """

    def __init__(self, stream: TextIO, name: str, job_id: str | None = None) -> None:
        super().__init__()
        self._stream = stream
        self._name = name
        self._job_id = job_id
        self._line = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Takes in text; whole lines are written."""
        with self._lock:
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                self._write_line(line)
        return len(text)

    def flush(self) -> None:
        """Writes what there is of a line."""
        with self._lock:
            if self._line:
                self._write_line(self._line)
                self._line = ""
            self._stream.flush()

    def fileno(self) -> int:
        """Of the stream below, for what writes to it directly."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Whether it can be written to."""
        return True

    def _write_line(self, line: str) -> None:
        line = line.rstrip("\r")
        if not line.strip():
            return
        found = _WORKER.match(line)
        said = line if found is None else line[found.end() :]
        record = parse_line(said) or LogRecordLine(
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            level="INFO",
            logger=self._name,
            message=without_secrets(said),
            job_id=self._job_id,
        )
        if found is not None:
            record = record.model_copy(update={"worker": found.group(1)})
        self._stream.write(record.model_dump_json(exclude_none=True, ensure_ascii=True) + "\n")


def print_as_json(job_id: str | None = None) -> None:
    """Puts JSON lines in place of this process's standard output and error."""
    sys.stdout = JsonOutput(sys.stdout, "stdout", job_id)
    sys.stderr = JsonOutput(sys.stderr, "stderr", job_id)
