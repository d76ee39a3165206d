"""Log format of every process: lines for people, or a JSON object a line for a collector of logs.

The format comes from one environment variable, which the control plane hands on to the jobs. Secrets are taken out of
both formats, whoever logs them.
"""

import logging
import re
import sys
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import TextIO

from pydantic import BaseModel, ConfigDict

__all__ = [
    "FORMAT_VARIABLE",
    "JOB_VARIABLE",
    "JsonFormatter",
    "LogFormat",
    "LogRecordLine",
    "TextFormatter",
    "configure_logging",
    "current_job",
    "current_request",
    "current_traceparent",
    "format_named",
    "make_handler",
    "without_secrets",
]

FORMAT_VARIABLE = "SEQAE_LOG_FORMAT"
"""Environment variable with a `LogFormat`."""

JOB_VARIABLE = "SEQAE_JOB_ID"
"""Environment variable of a driver and its workers: the job that they work for."""

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_TIME = "%Y-%m-%dT%H:%M:%S%z"
"""Times with their zone."""

_LONGEST_MESSAGE = 20_000
"""Letters of a message, and of an exception: a collector cuts longer lines, which makes them no JSON."""

_ACCESS_LOGGER = "uvicorn.access"

_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"seqae_[A-Za-z0-9_-]{43}"), "seqae_***"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\1 ***"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "***"),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=]+"), "whsec_***"),
    (re.compile(r"(://[^\s/:@]*):[^\s/@]+@"), r"\1:***@"),
    (re.compile(r"\b(token|secret|password|api_?key)=[^&\s'\"]+", re.IGNORECASE), r"\1=***"),
)
"""What looks like a token of ours or of an identity provider, a key of webhooks, or a password in an address."""

current_request: ContextVar[str | None] = ContextVar("current_request", default=None)
"""Id of the request that this code works for."""

current_job: ContextVar[str | None] = ContextVar("current_job", default=None)
"""Id of the job that this code works for, in a process that works for many."""

current_traceparent: ContextVar[str | None] = ContextVar("current_traceparent", default=None)
"""The span that this code is in (W3C Trace Context), where traces are on."""


class LogFormat(StrEnum):
    """How a process writes its log."""

    TEXT = "text"
    JSON = "json"


class LogRecordLine(BaseModel):
    """One line of a log in JSON; fields without a value are left out of it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    time: str
    """ISO 8601, in UTC, to the millisecond."""
    level: str
    """DEBUG, INFO, WARNING, ERROR or CRITICAL."""
    logger: str
    """The module that says it; `stdout` or `stderr` where a library printed it."""
    message: str
    request_id: str | None = None
    job_id: str | None = None
    trace_id: str | None = None
    worker: str | None = None
    """The process of the job that said it, as Ray calls it, where the driver's log has it."""
    client: str | None = None
    """Address and port of who asked, in access lines."""
    method: str | None = None
    """HTTP method, in access lines."""
    path: str | None = None
    """Path without the query, in access lines."""
    status: int | None = None
    """HTTP status, in access lines."""
    exception: str | None = None
    """Python's traceback, whose last line names the error."""

    def text(self) -> str:
        """The same as lines for people, as `LogFormat.TEXT` would have written it."""
        prefix = f"({self.worker}) " if self.worker else ""
        head = f"{prefix}{self.time} {self.level} {self.logger}: {self.message}"
        return head if self.exception is None else f"{head}\n{self.exception}"


def without_secrets(text: str) -> str:
    """A text with what looks like a secret taken out.

    Halves of surrogate pairs, which are no UTF-8, are escaped.
    """
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text.encode(errors="backslashreplace").decode()


class TextFormatter(logging.Formatter):
    """Formatter of lines for people, with secrets taken out."""

    def __init__(self) -> None:
        super().__init__(_TEXT, _TIME)

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, and its traceback below."""
        return without_secrets(super().format(record))


class JsonFormatter(logging.Formatter):
    """Formatter of one JSON object a line (`LogRecordLine`), with secrets taken out.

    Args:
        job_id: of the job that this whole process works for.
    """

    def __init__(self, job_id: str | None = None) -> None:
        super().__init__()
        self._job_id = job_id

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        exception = None
        if record.exc_info and record.exc_info[0] is not None:
            # Its end names the error, so that is what is kept.
            exception = without_secrets(self.formatException(record.exc_info))[-_LONGEST_MESSAGE:]
        traceparent = current_traceparent.get()
        line = LogRecordLine(
            time=datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            level=record.levelname,
            logger=record.name,
            message=without_secrets(record.getMessage())[:_LONGEST_MESSAGE],
            request_id=current_request.get(),
            job_id=current_job.get() or self._job_id,
            trace_id=None if traceparent is None else traceparent.split("-")[1],
            exception=exception,
        )
        if record.name == _ACCESS_LOGGER:
            line = _access_line(line, record.args)
        return line.model_dump_json(exclude_none=True, ensure_ascii=True)


def _access_line(line: LogRecordLine, arguments: object) -> LogRecordLine:
    """Takes an access line of uvicorn apart; the query is left out, as it may hold anything."""
    match arguments:
        case (str(client), str(method), str(full_path), _, int(status)):
            path = without_secrets(full_path.partition("?")[0])[:_LONGEST_MESSAGE]
            fields = {"client": client, "method": method, "path": path, "status": status}
            return line.model_copy(update={**fields, "message": f"{method} {path} {status}"})
    return line


def format_named(name: str | None) -> LogFormat:
    """The format of that name; text for a name that this release does not know."""
    return LogFormat.JSON if name is not None and name.strip().lower() == LogFormat.JSON else LogFormat.TEXT


def make_handler(log_format: LogFormat, job_id: str | None = None, stream: TextIO | None = None) -> logging.Handler:
    """A handler that prints in a format.

    Args:
        log_format: of its lines.
        job_id: of the job that this whole process works for.
        stream: where to; standard error when left out.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(job_id) if log_format is LogFormat.JSON else TextFormatter())
    return handler


def configure_logging(log_format: LogFormat, job_id: str | None = None) -> None:
    """Makes the root logger of this process print to standard error, unless it has a handler already.

    In JSON, what would be printed past the loggers is logged: warnings of libraries, and exceptions that nobody caught.

    Args:
        log_format: of the lines.
        job_id: of the job that this whole process works for.
    """
    logging.basicConfig(level=logging.INFO, handlers=[make_handler(log_format, job_id)])
    if log_format is LogFormat.JSON:
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger(__name__).critical("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(uncaught: threading.ExceptHookArgs) -> None:
    if uncaught.exc_value is not None and not isinstance(uncaught.exc_value, SystemExit):
        _log_uncaught(uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback)
