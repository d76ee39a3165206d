"""Entry point of the command line, `seqae`: its verbs, exit statuses, and what becomes of errors.

What a verb needs is imported when it runs, so that `seqae --help` answers at once.
"""

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from seqae.errors import Error
from service.cli.commands import (
    access,
    backup,
    bench,
    cluster,
    figure,
    jobs,
    models,
    overview,
    search,
    spec,
    stack,
    watch,
)
from service.cli.output import EXIT_STATUSES, ExitStatus

__all__ = ["app", "main"]

_GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    "The stack": (
        stack.up,
        stack.down,
        stack.status,
        stack.demo,
        cluster.join,
        overview.top,
        overview.disk,
        cluster.nodes,
    ),
    "Jobs": (
        *(spec.spec, jobs.validate, jobs.submit, watch.attach, jobs.jobs, jobs.show, watch.logs, watch.events),
        *(watch.frames, search.trials, search.compare, search.search),
        *(jobs.attempts, jobs.cancel, jobs.pause, jobs.resume, jobs.retry, jobs.priority, jobs.delete),
    ),
    "Access": (access.token, access.audit),
    "Safety": (backup.backup, backup.restore, overview.retention),
    "Models": (
        *(models.models, models.promote, models.rollback, models.reconstruct, models.evaluate, models.verify),
        *(figure.figure, bench.bench),
    ),
}
"""The verbs, in the order in which help lists them."""

_TRACEBACK = "SEQAE_TRACEBACK"
"""Environment variable; anything in it prints where an unexpected error comes from."""


class _Group(TyperGroup):
    """The verbs; a pipe that was closed ends them in their own way."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the verb, and sees to it that all of its output is written."""
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError as error:
            _discard_output()
            raise typer.Exit(ExitStatus.PIPE_CLOSED) from error
        return result


app = typer.Typer(
    cls=_Group,
    name="seqae",
    help="Trains, tracks and serves an attentive sequential auto-encoder.",
    epilog="Exit status: " + ". ".join(f"{int(status)}: {meaning}" for status, meaning in EXIT_STATUSES.items()) + ".",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"seqae {version('seqae')}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Trains, tracks and serves an attentive sequential auto-encoder."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(ExitStatus.USAGE)


for _title, _verbs in _GROUPS.items():
    for _verb in _verbs:
        app.command(rich_help_panel=_title)(_verb)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    # Ends the same way as Ctrl-C, with everything cleaned up.
    raise KeyboardInterrupt


def main() -> None:
    """Runs the command line. Whatever goes wrong becomes one message on standard error, and an exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that can't show a letter is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = app(prog_name="seqae", standalone_mode=False)
    except KeyboardInterrupt:
        status = ExitStatus.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - reported, with its trace where that is asked for
        status = _report(error)
    sys.exit(status if isinstance(status, int) else ExitStatus.DONE)


def _report(error: Exception) -> int:
    """Says what went wrong; the exit status for it."""
    if os.environ.get(_TRACEBACK):
        traceback.print_exception(error)
    status: int = ExitStatus.FAILED
    if isinstance(error, TyperException):
        message = f"{error.format_message()} (`--help` lists what there is)"
        status = ExitStatus.USAGE
    elif isinstance(error, Error):
        message = str(error)
    elif isinstance(error, OSError) and error.strerror:
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        message = f"unexpected {type(error).__name__}: {error} ({_TRACEBACK}=1 shows where)"
    with suppress(OSError):
        typer.echo(f"seqae: {message}", err=True)
    _discard_output()
    return status


def _discard_output() -> None:
    """Writes what is not written yet, and drops it where that is not possible: Python would try again at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


if __name__ == "__main__":
    main()
