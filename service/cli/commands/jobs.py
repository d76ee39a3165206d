"""Verbs of jobs: `submit`, `validate`, `jobs`, `show`, `attempts`, `priority`, `delete`, and changes of state."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import HomeOption, JobArgument, JsonOption, OwnerOption, UrlOption, connect, resolve_job
from service.cli.output import (
    ExitStatus,
    describe_error,
    format_metric,
    format_time,
    print_json,
    print_model,
    print_table,
    summarize,
)

if TYPE_CHECKING:
    from service.client import Client
    from service.schemas.jobs import JobView, Validation

__all__ = [
    "attempts",
    "cancel",
    "delete",
    "finish",
    "jobs",
    "pause",
    "priority",
    "resume",
    "retry",
    "show",
    "submit",
    "validate",
]

SpecArgument = Annotated[
    Path, typer.Argument(metavar="SPEC", help="A YAML or JSON file with a job spec; - reads standard input.")
]


def submit(
    spec: SpecArgument,
    home: HomeOption = None,
    url: UrlOption = None,
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key gives the same job.")] = None,
    owner: OwnerOption = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put a job into the queue; prints its id."""
    from service.cli.spec_file import read_spec

    with connect(home, url) as client:
        job = client.submit(read_spec(spec), priority=priority, idempotency_key=key, owner=owner)
        finish(client, job, wait=wait, as_json=as_json)


def finish(client: "Client", job: "JobView", *, wait: bool, as_json: bool) -> None:
    """What every verb that submits does then: prints the id, and follows the job if that was asked for.

    Raises:
        typer.Exit: the job that was waited for ended without success.
    """
    if not as_json:
        typer.echo(job.id)
    if wait:
        watch(client, job.id, as_json=as_json)
    elif as_json:
        print_model(job)


def watch(client: "Client", job_id: str, *, as_json: bool) -> None:
    """Follows a job to its end and says how that was.

    Raises:
        typer.Exit: it ended without success, or Ctrl-C.
    """
    from service.cli.progress import PipeConsole, detachable, follow
    from service.job_state import State

    with detachable(job_id):
        job = follow(client, job_id, PipeConsole(stderr=as_json))
    if as_json:
        print_model(job)
    else:
        for line in summarize(job):
            typer.echo(line)
    if job.state is not State.SUCCEEDED:
        raise typer.Exit(ExitStatus.JOB_FAILED)


def validate(spec: SpecArgument, home: HomeOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Say what would run and why it would be refused, without doing it. The exit status is 0 when it would run."""
    from service.cli.spec_file import read_spec

    with connect(home, url) as client:
        found = client.validate(read_spec(spec))
    if as_json:
        print_model(found)
    else:
        _print_validation(found)
    if not found.accepted:
        raise typer.Exit(ExitStatus.FAILED)


def _print_validation(found: "Validation") -> None:
    typer.echo("it would be accepted" if found.accepted else "it would be refused:")
    for problem in found.problems:
        typer.echo(f"  {problem.pointer}: {problem.detail}")
    for warning in found.warnings:
        typer.echo(f"  note: {warning}")
    seconds = "-" if found.seconds is None else f"{found.seconds:.0f}"
    rows = [
        ("workers", str(found.workers)),
        ("CPUs", f"{found.cpus:g}"),
        ("GPUs", f"{found.gpus:g}"),
        ("iterations", str(found.iterations)),
        ("seconds, about", seconds),
        ("memory, about", f"{found.memory_bytes / 1e6:.0f} MB"),
    ]
    print_table(("what", "how much"), rows)


def jobs(
    home: HomeOption = None,
    url: UrlOption = None,
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; repeat it for several.")] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="Only jobs of this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with connect(home, url) as client:
        page = client.list([name.upper() for name in state or ()], limit=limit, owner=owner)
    if as_json:
        print_model(page)
        return
    print_table(("id", "state", "kind", "created", "progress", "test/mse", "name"), [_row(job) for job in page.items])
    if page.next_cursor:
        typer.echo(f"... and older ones: --limit {min(200, limit * 2)}")


def _row(job: "JobView") -> tuple[str, ...]:
    from service.cli.progress import describe_state

    done = f"{job.progress.iteration}/{job.progress.iterations}" if job.progress else "-"
    created = format_time(job.created_at)
    error = format_metric(job.metrics, "test/mse")
    return job.id, describe_state(job), job.kind, created, done, error, job.name


def show(job: JobArgument, home: HomeOption = None, url: UrlOption = None, _as_json: JsonOption = False) -> None:
    """Show all about a job, as JSON."""
    with connect(home, url) as client:
        print_model(client.get(resolve_job(client, job)))


def attempts(job: JobArgument, home: HomeOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List every try at a job, oldest first."""
    with connect(home, url) as client:
        found = client.attempts(resolve_job(client, job))
    if as_json:
        print_json([attempt.model_dump(mode="json", by_alias=True) for attempt in found])
        return
    rows = [
        (
            str(attempt.number),
            attempt.outcome or "open",
            format_time(attempt.started_at),
            format_time(attempt.ended_at),
            f"{attempt.error.message} ({attempt.error.error_class})" if attempt.error else "",
        )
        for attempt in found
    ]
    print_table(("attempt", "outcome", "started", "ended", "error"), rows)


def cancel(job: JobArgument, home: HomeOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """End a job that waits or runs."""
    _act(home, url, job, as_json, lambda client, job_id: client.cancel(job_id))


def pause(job: JobArgument, home: HomeOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Take a job off the cluster, with a checkpoint, until it is resumed."""
    _act(home, url, job, as_json, lambda client, job_id: client.pause(job_id))


def resume(job: JobArgument, home: HomeOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Put a paused job back into the queue; it goes on from its newest checkpoint."""
    _act(home, url, job, as_json, lambda client, job_id: client.resume(job_id))


def retry(job: JobArgument, home: HomeOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Try a job again: at once if it waits for that, as a new job if it failed or was cancelled."""
    _act(home, url, job, as_json, lambda client, job_id: client.retry(job_id))


def priority(
    job: JobArgument,
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=-1000, max=1000, help="Higher goes first.")],
    home: HomeOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move a job in the queue."""
    with connect(home, url) as client:
        changed = client.set_priority(resolve_job(client, job), number)
    if as_json:
        print_model(changed)
    else:
        typer.echo(f"{changed.id} {changed.state}, priority {changed.priority}")


def delete(
    job: Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids, or beginnings of some.")],
    home: HomeOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove ended jobs with their files. Their events and registered models stay."""
    with connect(home, url) as client:
        # All are looked up before the first is gone.
        ids = [resolve_job(client, text) for text in job]
        for job_id in ids:
            client.delete(job_id)
            if not as_json:
                typer.echo(f"{job_id} deleted")
    if as_json:
        print_json({"deleted": ids})


def _act(home: str | None, url: str | None, text: str, as_json: bool, act: "Callable[[Client, str], JobView]") -> None:
    with connect(home, url) as client:
        job = act(client, resolve_job(client, text))
    if as_json:
        print_model(job)
        return
    error = describe_error(job)
    typer.echo(f"{job.id} {job.state}{f': {error}' if error else ''}")
