"""Verbs that look at the service as a whole: `top`, `disk` and `retention`."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqae.errors import Error
from service.cli.options import HomeOption, JsonOption, UrlOption, connect
from service.cli.output import format_bytes, format_table, format_time, print_json, print_model, print_table

if TYPE_CHECKING:
    from service.client import Client
    from service.schemas.health import Readiness
    from service.schemas.jobs import JobView

__all__ = ["disk", "retention", "top"]

_MOST_JOBS = 200


@dataclass(frozen=True)
class _Snapshot:
    """The service at one time."""

    url: str
    at: datetime
    readiness: "Readiness"
    jobs: "tuple[JobView, ...]"
    """Those that have not ended, newest first."""
    more: bool
    """There are others."""

    @classmethod
    def take(cls, client: "Client") -> "_Snapshot":
        from service.job_state import State

        states = [state for state in State if not state.is_terminal and state is not State.UNKNOWN]
        page = client.list(states, limit=_MOST_JOBS)
        return cls(client.url, datetime.now(UTC), client.readiness(), page.items, page.next_cursor is not None)

    def lines(self, width: int | None) -> list[str]:
        """The snapshot as text: what the service says of its parts, sums, and a table of jobs."""
        parts = [
            f"  {name}: {'' if part.ok else 'NOT READY, '}{part.detail}" for name, part in self.readiness.parts.items()
        ]
        counts: dict[str, int] = {}
        for job in self.jobs:
            counts[job.state] = counts.get(job.state, 0) + 1
        states = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"
        workers = sum(job.progress.workers for job in self.jobs if job.progress)
        gpus = sum(_gpus(job) or 0 for job in self.jobs)
        return [
            f"{self.url}  {format_time(self.at)}  {'ready' if self.readiness.ready else 'NOT READY'}",
            *parts,
            f"jobs: {states}{' and more' if self.more else ''}; workers: {workers}; GPUs they hold: {gpus:g}",
            "",
            *format_table(_TITLES, [_row(job) for job in self.jobs], width),
        ]

    def plain(self) -> dict[str, Any]:
        """The snapshot as plain data."""
        return {
            "url": self.url,
            "at": self.at.isoformat(),
            "ready": self.readiness.model_dump(mode="json"),
            "jobs": [job.model_dump(mode="json", by_alias=True) for job in self.jobs],
            "more": self.more,
        }


_TITLES = ("id", "state", "workers", "GPUs", "progress", "kind", "name", "now")


def _row(job: "JobView") -> tuple[str, ...]:
    from service.cli.progress import describe, describe_state

    progress, gpus = job.progress, _gpus(job)
    return (
        job.id,
        describe_state(job),
        str(progress.workers) if progress else "-",
        "-" if gpus is None else f"{gpus:g}",
        f"{progress.iteration}/{progress.iterations}" if progress else "-",
        job.kind,
        job.name,
        describe(job),
    )


def _gpus(job: "JobView") -> float | None:
    """GPUs that a job's workers hold now: so many workers with so much each. None where that is not known."""
    from jobs.specs import TrainSpec

    if job.progress is None or not isinstance(job.spec, TrainSpec):
        return None
    return job.progress.workers * job.spec.scaling.gpus_per_worker


def top(
    home: HomeOption = None,
    url: UrlOption = None,
    once: Annotated[bool, typer.Option("--once", help="Print it once; that is also what a pipe gets.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.2, max=3600, help="Seconds between two looks.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Show the jobs that have not ended, their workers and GPUs, and the service's parts, until Ctrl-C."""
    with connect(home, url) as client:
        if as_json:
            print_json(_Snapshot.take(client).plain())
        elif once or sys.stdout is None or not sys.stdout.isatty():
            for line in _Snapshot.take(client).lines(None):
                typer.echo(line)
        else:
            _show_live(client, every)


def _show_live(client: "Client", every: float) -> None:
    from rich.live import Live
    from rich.text import Text

    from service.cli.progress import PipeConsole

    console = PipeConsole()
    lines: Sequence[str] = _Snapshot.take(client).lines(console.width)
    with Live(console=console, auto_refresh=False) as live:
        try:
            while True:
                live.update(Text("\n".join(lines), no_wrap=True), refresh=True)
                time.sleep(every)
                try:
                    lines = _Snapshot.take(client).lines(console.width)
                except Error as error:
                    # A service that is started again comes back.
                    lines = [f"{format_time(datetime.now(UTC))}  {error}"]
        except KeyboardInterrupt:
            return


def disk(home: HomeOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show what the service keeps on its disk, of which kind, and whose."""
    with connect(home, url) as client:
        found = client.disk()
    if as_json:
        print_model(found)
        return
    free, total = format_bytes(found.free_bytes), format_bytes(found.total_bytes)
    typer.echo(f"{found.home}: {free} of {total} are free; measured at {format_time(found.measured_at)}\n")
    parts = [
        (
            part.kind,
            format_bytes(part.bytes),
            "-" if part.quota_bytes is None else format_bytes(part.quota_bytes),
            str(part.files),
            format_time(part.newest),
        )
        for part in found.parts
    ]
    print_table(("kind", "size", "quota", "files", "newest"), parts)
    if found.owners:
        typer.echo()
        owners = [(owner.owner or "-", format_bytes(owner.bytes), str(owner.jobs)) for owner in found.owners]
        print_table(("owner", "size", "jobs"), owners)
    if found.jobs:
        typer.echo()
        jobs = [
            (
                job.id,
                job.state or "gone",
                format_bytes(job.bytes),
                format_bytes(job.checkpoint_bytes),
                format_bytes(job.film_strip_bytes),
                format_bytes(job.log_bytes),
                job.owner or "-",
                job.name,
            )
            for job in found.jobs
        ]
        print_table(("job", "state", "size", "checkpoints", "film strips", "logs", "owner", "name"), jobs)


def retention(
    home: HomeOption = None,
    url: UrlOption = None,
    apply: Annotated[bool, typer.Option("--apply", help="Remove it now; without this it is only shown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show which ended jobs are over a limit, and would be removed at the next sweep."""
    with connect(home, url) as client:
        found = client.retention(apply=apply)
    if as_json:
        print_model(found)
        return
    limits = found.limits
    names = {"days": limits.days, "jobs": limits.jobs, "jobs of an owner": limits.jobs_per_owner}
    sizes = {"in all": limits.bytes, "of an owner": limits.bytes_per_owner}
    said = [f"{number:g} {name}" for name, number in names.items() if number]
    said += [f"{format_bytes(size)} {name}" for name, size in sizes.items() if size]
    typer.echo(f"limits on ended jobs: {', '.join(said) or 'none; SEQAE_MAX_ENDED_JOBS and others set some'}")
    for report in found.reports[:1]:
        what = f"{report.jobs} jobs, {format_bytes(report.bytes)}"
        typer.echo(f"last removed at {format_time(report.at)}: {what}")
    if found.removals:
        done = "removed" if apply else "would be removed"
        typer.echo(f"{done}: {found.jobs} jobs, {format_bytes(found.bytes)}\n")
        rows = [(one.job, one.owner or "-", one.removed, format_bytes(one.bytes), one.why) for one in found.removals]
        print_table(("job", "owner", "what", "size", "why"), rows)
    else:
        typer.echo("nothing is over a limit")
