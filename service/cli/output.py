"""What the commands print: tables, times, numbers by their names, JSON, and the summary of a job that has ended."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from service.schemas.jobs import JobView

__all__ = [
    "EXIT_STATUSES",
    "ExitStatus",
    "describe_error",
    "format_bytes",
    "format_duration",
    "format_metric",
    "format_table",
    "format_time",
    "next_commands",
    "print_json",
    "print_model",
    "print_table",
    "printable",
    "summarize",
]


class ExitStatus(IntEnum):
    """Exit statuses of `seqae`; `EXIT_STATUSES` says what each means."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    JOB_FAILED = 3
    INTERRUPTED = 130
    PIPE_CLOSED = 141


EXIT_STATUSES: Mapping[ExitStatus, str] = {
    ExitStatus.DONE: "done",
    ExitStatus.FAILED: "refused or failed, and one line on standard error says why; `status`: not all is ready",
    ExitStatus.USAGE: "wrong usage: an unknown verb or option, or a value that it does not take",
    ExitStatus.JOB_FAILED: "the job that was waited for ended without success: it failed or was cancelled",
    ExitStatus.INTERRUPTED: "Ctrl-C, SIGTERM or SIGHUP; a job that was waited for goes on",
    ExitStatus.PIPE_CLOSED: "nobody reads what is printed any more, as after `| head`",
}
"""What each of them means, for help and documentation."""

_SHOWN_METRICS = ("test/mse", "test/fg_ari", "test/count_accuracy")
"""Of a job that has ended, in this order, as far as it has them."""

_NARROWEST = 12
"""Letters of a table's last column that are always shown."""


def print_json(data: Any) -> None:
    """Prints plain data as indented JSON."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_model(*models: "BaseModel") -> None:
    """Prints wire models as indented JSON, one after another."""
    for model in models:
        typer.echo(model.model_dump_json(indent=2, by_alias=True))


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; nothing of it is cut, but the last column where a terminal is too narrow for it."""
    width = shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None
    for line in format_table(titles, rows, width):
        typer.echo(line)


def format_table(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> Iterator[str]:
    """Lines of a table with aligned columns.

    Args:
        titles: of the columns.
        rows: a text for each column.
        width: of the terminal; the last column is cut to it. None cuts nothing.
    """
    table = [list(titles), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(titles) - 1)]
    left = None if width is None else max(_NARROWEST, width - sum(widths) - 2 * len(widths))
    for row in table:
        cells = [cell.ljust(size) for cell, size in zip(row, widths, strict=False)]
        yield "  ".join([*cells, _cut(row[-1], left)]).rstrip()


def printable(text: str) -> str:
    """A text of others in one line, without what would steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"


def format_time(at: datetime | None) -> str:
    """A time on the clock of this machine, with its zone: 2026-01-31 18:05:07+01:00."""
    return "-" if at is None else at.astimezone().isoformat(sep=" ", timespec="seconds")


def format_duration(seconds: float) -> str:
    """A length of time: 0:42, 12:05, 3:00:10."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_bytes(number: int) -> str:
    """A number of bytes for people: 12 B, 3.4 MB, 1.2 GB."""
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_metric(metrics: Mapping[str, float] | None, name: str) -> str:
    """A metric's value, or "-" where there is none. Errors are small, so they get more places."""
    value = (metrics or {}).get(name)
    if value is None:
        return "-"
    return f"{value:.5f}" if name.endswith("mse") else f"{value:.3f}"


def describe_error(job: "JobView") -> str:
    """Why a job failed, in a line; empty where nothing is wrong."""
    if job.error is not None:
        return printable(f"{job.error.message} ({job.error.error_class})")
    return ""


def summarize(job: "JobView") -> Iterator[str]:
    """Lines on a job that has ended: error, metrics, version, champion or why not, and the next command."""
    length = ""
    if job.started_at is not None and job.finished_at is not None:
        length = f" after {format_duration((job.finished_at - job.started_at).total_seconds())}"
    error = describe_error(job)
    yield f"{job.id} {job.state}{length}{f': {error}' if error else ''}"
    shown = [name for name in _SHOWN_METRICS if name in (job.metrics or {})]
    if shown:
        yield "  " + "  ".join(f"{name} {format_metric(job.metrics, name)}" for name in shown)
    if job.model is not None:
        yield f"  model {job.model.name}/{job.model.version}{_standing(job)}"
    for command in next_commands(job):
        yield f"  next: {command}"


def _standing(job: "JobView") -> str:
    if job.promotion is None:
        return ""
    standing = "the champion" if job.promotion.promoted else "not the champion"
    return f", {standing}: {printable(job.promotion.reason)}"


def next_commands(job: "JobView") -> tuple[str, ...]:
    """What one would run next, of a job that has ended."""
    from service.job_state import State

    if job.state is State.SUCCEEDED and job.model is not None:
        return (f"seqae reconstruct picture.png -o frames.gif --model {job.model.name}/{job.model.version}",)
    if job.state is State.SUCCEEDED:
        return (f"seqae show {job.id}",)
    return (f"seqae logs {job.id}", f"seqae retry {job.id}")
