"""Verbs of the embedded stack: `up`, `down`, `status` and `demo`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from seqae.errors import Error
from service.cli.home import find_home
from service.cli.options import (
    DataOption,
    HomeOption,
    JsonOption,
    MlflowPortOption,
    NodeIpOption,
    PortOption,
    RayPortOption,
)
from service.cli.output import ExitStatus, print_json, print_table

if TYPE_CHECKING:
    from service.local.stack import Stack

__all__ = ["demo", "down", "status", "up"]


def up(
    home: HomeOption = None,
    data_dir: DataOption = None,
    port: PortOption = None,
    mlflow_port: MlflowPortOption = None,
    ray_port: RayPortOption = None,
    head: Annotated[
        bool | None,
        typer.Option("--head/--no-head", help="Take other machines (`seqae join`), or none; by default as before."),
    ] = None,
    node_ip: NodeIpOption = None,
    head_port: Annotated[
        int | None, typer.Option("--head-port", min=1, max=65_535, help="Port at which machines join.")
    ] = None,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Start although the home's stack ran on a host that is gone for good.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start MLflow, Ray and the control plane, or whichever of them does not run."""
    from service.settings import Settings

    # What the control plane would not start with is said before anything starts.
    _check_storage(Settings.from_environment().storage)
    stack = _stack(
        home, data_dir, port, mlflow_port, ray_port, quiet=as_json, head_port=head_port, node_ip=_head_ip(head, node_ip)
    )
    stack.up(takeover=takeover)
    if as_json:
        _print_status(stack)
    else:
        typer.echo(f"the stack is up; it keeps everything in {stack.layout.home}")


def down(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """End all of it. Jobs and models stay; jobs that were running go on at the next `up`."""
    stack = _stack(home, quiet=as_json)
    stack.down()
    if as_json:
        _print_status(stack)


def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what runs, and where. The exit status is 0 when all of it is ready."""
    stack = _stack(home)
    daemons = stack.status()
    if as_json:
        _print_status(stack)
    elif not daemons:
        typer.echo(f"there is no stack in {stack.layout.home}; `seqae up` starts one")
    else:
        rows = [(daemon.title, str(daemon.pid or "-"), daemon.url, daemon.health) for daemon in daemons]
        print_table(("part", "pid", "url", "health"), rows)
    if not daemons or not all(daemon.ready for daemon in daemons):
        raise typer.Exit(ExitStatus.FAILED)


def demo(
    home: HomeOption = None,
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
    as_json: JsonOption = False,
) -> None:
    """Train a small model end to end on this machine, in a few minutes, and show what it does."""
    from service.cli.demo import Demo, demo_spec
    from service.cli.progress import PipeConsole
    from service.settings import Settings

    Settings.from_environment()
    if out.exists() and not out.is_dir():
        raise Error(f"{out} is a file; --out names a folder")
    stack = _stack(home, data_dir, port, mlflow_port, ray_port, quiet=as_json)
    shown = Demo(stack, data_dir, out, PipeConsole(stderr=as_json))
    code = shown.run(demo_spec(digits, tune), keep=keep)
    if as_json and shown.report is not None:
        typer.echo(shown.report.read_text(), nl=False)
    raise typer.Exit(code)


def _check_storage(url: str) -> None:
    """Asks the storage, if there is one, for all that the stack needs of it. Raises: Error, with what is missing."""
    from jobs.errors import StorageRefused, StorageUnavailable
    from jobs.storage.locations import check_storage, open_storage

    if url:
        try:
            check_storage(open_storage(url))
        except (StorageRefused, StorageUnavailable) as error:
            raise Error(f"SEQAE_STORAGE: {error}") from error


def _stack(
    home: str | None,
    data_dir: Path | None = None,
    port: int | None = None,
    mlflow_port: int | None = None,
    ray_port: int | None = None,
    *,
    quiet: bool = False,
    head_port: int | None = None,
    node_ip: str | None = None,
) -> "Stack":
    from service.local.ports import PortName
    from service.local.stack import Stack

    given = {
        PortName.API: port,
        PortName.MLFLOW: mlflow_port,
        PortName.RAY: ray_port,
        PortName.RAY_GCS: head_port,
    }
    ports = {name: number for name, number in given.items() if number is not None}
    return Stack(find_home(home), data_dir, ports, say=partial(typer.echo, err=quiet), node_ip=node_ip)


def _head_ip(head: bool | None, node_ip: str | None) -> str | None:
    """The address at which the head is to listen: of this machine, the loopback's for no other machine, or None."""
    from service.local.node_addresses import check_node_ip, outward_ip
    from service.local.ports import HOST

    if head is None:
        return None
    if not head:
        return HOST
    return outward_ip() if node_ip is None else check_node_ip(node_ip)


def _print_status(stack: "Stack") -> None:
    print_json(
        {
            "home": str(stack.layout.home),
            "parts": [
                {"name": part.name, "title": part.title, "pid": part.pid, "url": part.url, "health": part.health}
                for part in stack.status()
            ],
        }
    )
