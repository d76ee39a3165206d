"""Verbs of safety: `backup` and `restore`, each done by a program of its own, which knows the database."""

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqae.errors import Error
from service.cli.home import find_home
from service.cli.options import HomeOption, JsonOption, user_name
from service.cli.output import format_bytes, format_time, print_model, printable

if TYPE_CHECKING:
    from service.local.home import HomeLayout
    from service.schemas.backup import BackupProgress, BackupRequest, BackupSummary

__all__ = ["backup", "restore"]

_LINE_SECONDS = 5.0


def backup(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="The new archive.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write jobs, models, runs and tokens into one archive, while the stack runs or not."""
    from service.local.home import HomeLayout
    from service.local.record import load_record
    from service.schemas.backup import BackupOperation, BackupRequest

    layout = HomeLayout.at(find_home(home))
    asked = BackupRequest(
        operation=BackupOperation.BACKUP,
        archive=archive.expanduser().absolute(),
        home=layout.home,
        by=user_name(""),
        data_dir=load_record(layout).data_dir,
    )
    done = _run(asked, quiet=as_json)
    if as_json:
        print_model(done)
        return
    typer.echo(f"{done.archive}: {format_bytes(done.bytes)} in {done.files} files, {done.jobs} jobs")
    typer.echo(f"  as of {format_time(done.made_at)}, of {done.home}")
    if done.left_out:
        typer.echo(f"  left out: {printable(', '.join(done.left_out))}")
    if done.data_dir is not None:
        typer.echo(f"  your own data in {printable(done.data_dir)} is not in it")


def restore(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="What `seqae backup` wrote.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an empty or new home of an archive: all of it, or nothing."""
    from service.local.home import HomeLayout
    from service.schemas.backup import BackupOperation, BackupRequest

    layout = HomeLayout.at(find_home(home))
    _refuse_if_running(layout)
    asked = BackupRequest(
        operation=BackupOperation.RESTORE,
        archive=archive.expanduser().absolute(),
        home=layout.home,
        by=user_name(""),
    )
    done = _run(asked, quiet=as_json)
    if as_json:
        print_model(done)
        return
    typer.echo(f"{done.home}: {format_bytes(done.bytes)} in {done.files} files, {done.jobs} jobs")
    typer.echo(f"  as of {format_time(done.made_at)}; jobs that ran then go on from their last checkpoint")
    if done.data_dir is not None and not Path(done.data_dir).is_dir():
        typer.echo(
            f"  your own data was in {printable(done.data_dir)}, which is not here: `seqae up --data-dir` names it"
        )
    typer.echo(f"next: seqae up --home {done.home}")


def _refuse_if_running(layout: "HomeLayout") -> None:
    """Raises: Error: processes of the home's stack run."""
    from service.local import processes
    from service.local.record import load_record, recognized

    record = load_record(layout)
    known = recognized(layout, record)
    if any(processes.alive(leader, known.mark(name)) for name, leader in record.leaders.items()):
        raise Error(
            f"the stack of {layout.home} runs, and a backup is restored into an empty home alone: `seqae down`, and "
            "move the folder away, or name another one with --home"
        )


def _run(asked: "BackupRequest", *, quiet: bool) -> "BackupSummary":
    """Has the program do it, and shows how far it is. Raises: Error: it refuses."""
    from pydantic import ValidationError

    from service.schemas.backup import BackupProgress, BackupSummary

    # Not below this folder, in which a file of the user's could stand in for a package.
    command = [sys.executable, "-P", "-m", "service.backup"]
    shown, last = _Shown(quiet), b""
    with (
        tempfile.TemporaryFile() as problems,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=problems) as program,
    ):
        assert program.stdin is not None
        assert program.stdout is not None
        try:
            program.stdin.write(asked.model_dump_json().encode())
            program.stdin.close()
            for line in program.stdout:
                last = line
                with suppress(ValidationError):
                    shown.show(BackupProgress.model_validate_json(line))
            status = program.wait()
        except BaseException:
            program.terminate()  # it takes back what it began
            program.wait()
            raise
        finally:
            shown.end()
        problems.seek(0)
        said = problems.read().decode(errors="replace").strip().rpartition("\n")[2]
    if status:
        raise Error(said or f"it ended with status {status}")
    return BackupSummary.model_validate_json(last)


class _Shown:
    """Progress on standard error: one line that changes on a terminal, and else one every few seconds."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet or sys.stderr is None
        self._on_terminal = not self._quiet and sys.stderr.isatty()
        self._printed_at = time.monotonic()

    def show(self, progress: "BackupProgress") -> None:
        """Shows how far it is."""
        text = f"{format_bytes(progress.bytes)} of about {format_bytes(progress.total)}, {progress.files} files"
        now = time.monotonic()
        if self._on_terminal:
            typer.echo(f"\r\x1b[K{text}", err=True, nl=False)
        elif not self._quiet and now - self._printed_at >= _LINE_SECONDS:
            self._printed_at = now
            typer.echo(text, err=True)

    def end(self) -> None:
        """Removes the line from the terminal."""
        if self._on_terminal:
            typer.echo("\r\x1b[K", err=True, nl=False)
