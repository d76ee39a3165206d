"""Commands of `seqae`, the entry point of the command line.

What a command needs is imported when it runs, so that `seqae --help` answers at once.
"""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from seqae.errors import Error
from service.cli.figure import figure

if TYPE_CHECKING:
    from service.client import Client
    from service.local.stack import Stack
    from service.schemas.jobs import JobView

__all__ = ["app", "main"]

app = typer.Typer(
    name="seqae",
    help="Trains, tracks and serves an attentive sequential auto-encoder.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _home(text: str | Path) -> Path:
    if text == "":
        # Path("") would be the current folder.
        raise Error("--home is empty: name a folder")
    return Path(text)


HomeOption = Annotated[
    Path,
    typer.Option(
        "--home", envvar="SEQAE_HOME", parser=_home, metavar="PATH", help="Folder of everything that the stack keeps."
    ),
]
DataOption = Annotated[
    Path | None, typer.Option("--data-dir", envvar="SEQAE_DATA_DIR", help="Folder with data of your own.")
]
UrlOption = Annotated[
    str | None, typer.Option("--url", envvar="SEQAE_URL", help="The service; by default the stack in the home folder.")
]
PortOption = Annotated[int | None, typer.Option("--port", envvar="SEQAE_PORT", help="Port of the control plane.")]
MlflowPortOption = Annotated[int | None, typer.Option("--mlflow-port", envvar="SEQAE_MLFLOW_PORT")]
RayPortOption = Annotated[int | None, typer.Option("--ray-port", envvar="SEQAE_RAY_PORT", help="Of Ray's dashboard.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, or `latest`.")]

_HOME = Path(".seqae")


# --- the stack


@app.command()
def up(
    home: HomeOption = _HOME,
    data_dir: DataOption = None,
    port: PortOption = None,
    mlflow_port: MlflowPortOption = None,
    ray_port: RayPortOption = None,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Start although the home's stack ran on a host that is gone for good.")
    ] = False,
) -> None:
    """Start MLflow, Ray and the control plane, or whichever of them does not run."""
    _stack(home, data_dir, port, mlflow_port, ray_port).up(takeover=takeover)


@app.command()
def down(home: HomeOption = _HOME) -> None:
    """End all of it. Jobs and models stay; jobs that were running go on at the next `up`."""
    _stack(home).down()


@app.command()
def status(home: HomeOption = _HOME) -> None:
    """Show what runs, and where. The exit status is 0 when all of it is ready."""
    from rich.console import Console
    from rich.table import Table

    daemons = _stack(home).status()
    if not daemons:
        typer.echo(f"there is no stack in {home}; `seqae up` starts one")
        raise typer.Exit(1)
    table = Table("part", "pid", "url", "health", box=None, pad_edge=False)
    for daemon in daemons:
        table.add_row(daemon.title, str(daemon.pid or "-"), daemon.url, daemon.health)
    Console().print(table)
    raise typer.Exit(0 if all(daemon.ready for daemon in daemons) else 1)


@app.command()
def demo(
    home: HomeOption = _HOME,
    data_dir: DataOption = None,
    digits: Annotated[Literal["bundled", "mnist"], typer.Option(help="mnist: the real ones, found or downloaded.")] = (
        "bundled"
    ),
    tune: Annotated[bool, typer.Option("--tune", help="Search with four short trials, in place of one run.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up at the end.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the report.")] = Path("demo"),
    port: PortOption = None,
    mlflow_port: MlflowPortOption = None,
    ray_port: RayPortOption = None,
) -> None:
    """Train a small model end to end on this machine, in a few minutes, and show what it does."""
    from service.cli.demo import Demo, demo_spec

    stack = _stack(home, data_dir, port, mlflow_port, ray_port)
    raise typer.Exit(Demo(stack, data_dir, out).run(demo_spec(digits, tune), keep=keep))


# --- jobs


@app.command()
def submit(
    spec: Annotated[Path, typer.Argument(help="A YAML or JSON file with a job spec; - reads standard input.")],
    home: HomeOption = _HOME,
    url: UrlOption = None,
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key gives the same job.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end.")] = False,
) -> None:
    """Put a job into the queue; prints its id."""
    with _client(home, url) as client:
        job = client.submit(_read_spec(spec), priority=priority, idempotency_key=key)
        typer.echo(job.id)
        if wait:
            from service.cli.progress import follow
            from service.job_state import State

            job = follow(client, job.id)
            _print_job(job)
            raise typer.Exit(0 if job.state is State.SUCCEEDED else 1)


@app.command()
def jobs(
    home: HomeOption = _HOME,
    url: UrlOption = None,
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; repeat it for several.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
) -> None:
    """List jobs, newest first."""
    from rich.console import Console
    from rich.table import Table

    with _client(home, url) as client:
        page = client.list([name.upper() for name in state or ()], limit=limit)
    table = Table("id", "name", "kind", "state", "created", "progress", "test error", box=None, pad_edge=False)
    for job in page.items:
        done = f"{job.progress.iteration}/{job.progress.iterations}" if job.progress else ""
        error = (job.metrics or {}).get("test/mse")
        shown = "" if error is None else f"{error:.5f}"
        table.add_row(job.id, job.name, job.kind, job.state, f"{job.created_at:%m-%d %H:%M}", done, shown)
    Console().print(table)
    if page.next_cursor:
        typer.echo(f"... and older ones: --limit {limit * 2}")


@app.command()
def show(job: JobArgument, home: HomeOption = _HOME, url: UrlOption = None) -> None:
    """Show all about a job, as JSON."""
    with _client(home, url) as client:
        typer.echo(client.get(_resolve(client, job)).model_dump_json(indent=2, by_alias=True))


@app.command()
def cancel(job: JobArgument, home: HomeOption = _HOME, url: UrlOption = None) -> None:
    """End a job that waits or runs."""
    with _client(home, url) as client:
        _print_job(client.cancel(_resolve(client, job)))


@app.command()
def logs(
    job: JobArgument,
    home: HomeOption = _HOME,
    url: UrlOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=1, help="Only so many of the last lines.")] = None,
) -> None:
    """Print what a job's driver printed, the last megabyte of it at most."""
    with _client(home, url) as client:
        for piece in client.logs(_resolve(client, job), follow=follow, tail=tail):
            typer.echo(piece, nl=False)


# --- models


@app.command()
def reconstruct(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An image of any size and kind.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A .gif, .png (film strip), .npz or .json file.")],
    model: Annotated[str, typer.Option(help="`champion`, a version, or a job's id.")] = "champion",
    home: HomeOption = _HOME,
    url: UrlOption = None,
) -> None:
    """Let a model rebuild an image, step by step."""
    from service.schemas.models import MediaType

    media_types = {".gif": MediaType.GIF, ".png": MediaType.PNG, ".npz": MediaType.NPZ, ".json": MediaType.JSON}
    media_type = media_types.get(out.suffix.lower())
    if media_type is None:
        raise Error(f"{out}: the name must end in one of {', '.join(media_types)}")
    with _client(home, url) as client:
        content = client.render(image, media_type, model=model)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)
    typer.echo(str(out))


app.command()(figure)


# --- shared by the commands


def _stack(
    home: Path,
    data_dir: Path | None = None,
    port: int | None = None,
    mlflow_port: int | None = None,
    ray_port: int | None = None,
) -> "Stack":
    from service.local.ports import PortName
    from service.local.stack import Stack

    given = {PortName.API: port, PortName.MLFLOW: mlflow_port, PortName.RAY: ray_port}
    ports = {name: number for name, number in given.items() if number is not None}
    return Stack(home, data_dir, ports, say=typer.echo)


def _client(home: Path, url: str | None) -> "Client":
    from service.client import Client
    from service.local.stack import api_url

    return Client(url or api_url(home))


def _resolve(client: "Client", job: str) -> str:
    if job != "latest":
        return job
    page = client.list(limit=1)
    if not page.items:
        raise Error("there are no jobs yet")
    return page.items[0].id


def _read_spec(path: Path) -> dict[str, object]:
    import yaml

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
        spec = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"can't read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise Error(f"{path} is neither YAML nor JSON: {error}") from error
    if not isinstance(spec, dict):
        raise Error(f"{path} holds no job spec: fields with values are expected, such as `name: first`")
    return spec


def _print_job(job: "JobView") -> None:
    line = f"{job.id} {job.state}"
    if job.error is not None:
        line += f": {job.error.message}"
    typer.echo(line)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    # Ends the same way as Ctrl-C, with everything cleaned up.
    raise KeyboardInterrupt


def main() -> None:
    """Runs the command line: an error of ours becomes one message and exit status 1, Ctrl-C becomes 130."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    try:
        app()
    except Error as error:
        typer.echo(f"seqae: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
