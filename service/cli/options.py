"""Options and arguments that several commands have, and what is made of them: the client, and a job's whole id."""

import getpass
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqae.errors import Error
from service.cli.home import find_home

if TYPE_CHECKING:
    from service.client import Client
    from service.schemas.jobs import JobView

__all__ = [
    "DataOption",
    "HomeOption",
    "JobArgument",
    "JsonOption",
    "MlflowPortOption",
    "NodeIpOption",
    "OwnerOption",
    "PortOption",
    "RayPortOption",
    "UrlOption",
    "WhyOption",
    "all_jobs",
    "complete_jobs",
    "connect",
    "resolve_job",
    "resolve_model",
    "user_name",
]

_COMPLETION_SECONDS = 1.0
_MOST_CANDIDATES = 10
_NOT_FOUND = 404


def complete_jobs(incomplete: str) -> list[tuple[str, str]]:
    """Ids of the newest jobs, with their names, for the shell's completion. Never fails: there is nobody to tell."""
    from service.client import Client
    from service.local.stack import api_url

    try:
        with Client(api_url(find_home()), timeout=_COMPLETION_SECONDS) as client:
            jobs = client.list(limit=100).items
    except Error:
        return []
    found = [(job.id, f"{job.state} {job.name}") for job in jobs if job.id.startswith(incomplete)]
    return [*found, *([("latest", "the newest")] if "latest".startswith(incomplete) else [])]


HomeOption = Annotated[
    str | None,
    typer.Option(
        "--home",
        envvar="SEQAE_HOME",
        metavar="FOLDER",
        help="Of everything that the stack keeps: by default the nearest .seqae from here upwards, else your own.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="SEQAE_DATA_DIR", metavar="FOLDER", help="Folder with data of your own."),
]
UrlOption = Annotated[
    str | None, typer.Option("--url", envvar="SEQAE_URL", help="The service; by default the stack in the home folder.")
]
PortOption = Annotated[
    int | None, typer.Option("--port", envvar="SEQAE_PORT", min=1, max=65_535, help="Port of the control plane.")
]
MlflowPortOption = Annotated[
    int | None, typer.Option("--mlflow-port", envvar="SEQAE_MLFLOW_PORT", min=1, max=65_535, help="Port of MLflow.")
]
RayPortOption = Annotated[
    int | None,
    typer.Option("--ray-port", envvar="SEQAE_RAY_PORT", min=1, max=65_535, help="Port of Ray's dashboard."),
]
NodeIpOption = Annotated[
    str | None,
    typer.Option(
        "--node-ip",
        metavar="ADDRESS",
        help="Address of this machine by which the others reach it; by default the one that leads to them.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="A job's id, the beginning of one, or `latest`.",
        autocompletion=complete_jobs,
    ),
]
OwnerOption = Annotated[str, typer.Option("--owner", envvar="SEQAE_OWNER", help="Who asks.")]
WhyOption = Annotated[str, typer.Option("--why", help="For whoever reads the history.")]


def connect(home: str | None, url: str | None) -> "Client":
    """A client of the service that is named, or else of the stack in the home folder.

    Raises:
        Error: there is no stack, or the URL is none.
    """
    from service.client import Client
    from service.local.stack import api_url

    return Client(api_url(find_home(home)) if url is None else url)


def resolve_job(client: "Client", text: str) -> str:
    """The whole id of a job that is named by it, by its beginning, or as the latest.

    Raises:
        Error: there is none, or there are several, which are listed.
    """
    from service.errors import ApiError

    if text == "latest":
        page = client.list(limit=1)
        if not page.items:
            raise Error("there are no jobs yet")
        return page.items[0].id
    if not re.fullmatch(r"[\w-]{1,100}", text, re.ASCII):
        raise Error(f"{text[:100]!r} is no job's id")
    try:
        return client.get(text).id
    except ApiError as error:
        if error.status != _NOT_FOUND:
            raise
        unknown = error
    beginnings = (text, f"job_{text}")
    found = [job for job in all_jobs(client) if job.id.startswith(beginnings)]
    if not found:
        raise unknown
    if len(found) > 1:
        lines = [f"  {job.id}  {job.state}  {job.name}" for job in found[:_MOST_CANDIDATES]]
        more = [f"  and {len(found) - _MOST_CANDIDATES} more"] if len(found) > _MOST_CANDIDATES else []
        raise Error("\n".join([f"{len(found)} jobs' ids begin with {text}:", *lines, *more]))
    return found[0].id


def resolve_model(client: "Client", text: str) -> str:
    """What names a model to the service: as given, or the whole id of a job that is named in short."""
    is_job = text == "latest" or text.startswith("job_")
    return resolve_job(client, text) if is_job else text


def all_jobs(client: "Client", states: tuple[str, ...] = ()) -> "Iterator[JobView]":
    """Every job, newest first, page by page."""
    cursor: str | None = None
    while True:
        page = client.list(states, limit=200, cursor=cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def user_name(owner: str) -> str:
    """Who asks: as given, else the user of this process, if that has a name."""
    if owner:
        return owner
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""
    return name if name.isascii() and name.isprintable() else ""
