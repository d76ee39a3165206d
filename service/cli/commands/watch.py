"""Verbs that watch a job: `attach`, `logs`, `events` and `frames`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqae.errors import Error
from service.cli.commands.jobs import watch
from service.cli.files import write_file
from service.cli.options import HomeOption, JobArgument, JsonOption, UrlOption, connect, resolve_job
from service.cli.output import format_time, print_json, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from service.schemas.jobs import Event

__all__ = ["attach", "events", "frames", "logs"]

_MOST_SHOWN = 160
"""Letters of an event's data in a line."""


def attach(job: JobArgument, home: HomeOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Follow a job to its end, as `submit --wait` does. Ctrl-C leaves the job alone."""
    with connect(home, url) as client:
        watch(client, resolve_job(client, job), as_json=as_json)


def logs(
    job: JobArgument,
    home: HomeOption = None,
    url: UrlOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=1, help="Only so many of the last lines.")] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, help="By default the newest.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print what a job's driver printed, the last megabyte of it at most. As JSON, an object for each line."""
    with connect(home, url) as client:
        pieces = client.logs(resolve_job(client, job), follow=follow, tail=tail, attempt=attempt)
        if as_json:
            for line in _lines(pieces):
                typer.echo(json.dumps({"line": line}, ensure_ascii=False))
            return
        for piece in pieces:
            typer.echo(piece, nl=False)


def _lines(pieces: "Iterable[str]") -> "Iterator[str]":
    """Whole lines of a text that comes in pieces."""
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        yield from whole
    if rest:
        yield rest


def events(
    job: JobArgument,
    home: HomeOption = None,
    url: UrlOption = None,
    after: Annotated[int, typer.Option("--after", min=0, help="Only those after the event of this number.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Print what happens to a job, as it happens, until it has ended. As JSON, an object a line."""
    with connect(home, url) as client:
        for event in client.events(resolve_job(client, job), after):
            typer.echo(event.model_dump_json() if as_json else _describe(event))


def _describe(event: "Event") -> str:
    data = "  ".join(f"{name}={_shown(value)}" for name, value in event.data.items() if value is not None)
    if len(data) > _MOST_SHOWN:
        data = f"{data[:_MOST_SHOWN]}…"
    return f"{event.id:>6}  {format_time(event.at)}  {event.type:<10}  {data}".rstrip()


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return printable(" ".join(text.split()))


def frames(
    job: JobArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A .png file to write one to; without it they are listed.")
    ] = None,
    step: Annotated[int | None, typer.Option("--step", min=0, help="Of an iteration; by default the latest.")] = None,
    home: HomeOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the film strips that a job has made so far, or write one of them to a file."""
    if out is not None and out.suffix.lower() != ".png":
        raise Error(f"{out}: the name must end in .png")
    with connect(home, url) as client:
        job_id = resolve_job(client, job)
        if out is None:
            steps = [found for found in client.frames(job_id) if step is None or found == step]
            if as_json:
                print_json({"steps": steps})
            else:
                for found in steps:
                    typer.echo(str(found))
            return
        content = client.frame(job_id, "latest" if step is None else step)
    write_file(out, content)
    if as_json:
        print_json({"file": str(out)})
    else:
        typer.echo(str(out))
