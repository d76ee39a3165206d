"""Progress display of a job: a bar in a terminal, lines anywhere else."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from service.cli.output import ExitStatus, format_duration, format_metric
from service.client import Client
from service.schemas.jobs import JobView, ProgressView, WaitingView

__all__ = ["PipeConsole", "describe", "describe_state", "detachable", "follow"]

_LINE_SECONDS = 10.0


class PipeConsole(Console):
    """A console that leaves it to `main` to end when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        """Raises the error again that rich would turn into an exit status of its own."""
        raise BrokenPipeError


@contextmanager
def detachable(job_id: str) -> Iterator[None]:
    """Says at Ctrl-C that a job which is only watched goes on, and how to come back to it."""
    try:
        yield
    except KeyboardInterrupt as error:
        typer.echo(
            f"\n{job_id} goes on; `seqae attach {job_id}` comes back to it, `seqae cancel {job_id}` ends it", err=True
        )
        raise typer.Exit(ExitStatus.INTERRUPTED) from error


def follow(client: Client, job_id: str, console: Console | None = None) -> JobView:
    """Shows a job's progress until it has ended. The last line of it stays.

    Args:
        client: of the service that has the job.
        job_id: of the job.
        console: where it is shown; standard output when left out.

    Returns:
        The job as it ended.
    """
    console = console or PipeConsole()
    columns = (
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
    )
    if not console.is_terminal:
        return client.wait(job_id, on_poll=_Lines(console).show)
    with Progress(*columns, console=console) as progress:
        bar = _Bar(progress)
        return client.wait(job_id, on_poll=bar.show, poll=0.5)


class _Bar:
    """Updates a progress bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task("", total=None, text="")

    def show(self, job: JobView) -> None:
        done, total = (job.progress.iteration, job.progress.iterations) if job.progress else (0, 0)
        if job.state.is_terminal and not total:
            done = total = 1  # a bar without a total would swing for ever
        self._progress.update(
            self._task,
            description=describe_state(job).lower(),
            completed=done,
            total=total or None,
            text=describe(job),
        )


class _Lines:
    """Prints a line when the state changes, and every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._state = ""
        self._printed_at = 0.0

    def show(self, job: JobView) -> None:
        now, state = time.monotonic(), describe_state(job)
        if state != self._state or now - self._printed_at > _LINE_SECONDS:
            self._state, self._printed_at = state, now
            self._console.print(Text(f"{state.lower():<11} {describe(job)}".rstrip()), soft_wrap=True)


def describe_state(job: JobView) -> str:
    """A job's state, or what it waits for."""
    if job.waiting is None or job.waiting.position is not None:
        return job.state
    return f"WAITING FOR {job.waiting.reason.upper()}"


def describe(job: JobView) -> str:
    """How far a job is: what it lacks, its newest numbers by their names, or its result."""
    progress = job.progress
    if job.waiting is not None:
        return _wait(job.waiting)
    if job.state.is_terminal:
        return "  ".join(
            f"{name} {format_metric(job.metrics, name)}"
            for name in ("test/mse", "test/fg_ari")
            if name in (job.metrics or {})
        )
    if progress is None:
        return ""
    if progress.trials:
        return _trials(progress)
    if not progress.iteration:
        return progress.phase
    fields = [f"epoch {progress.epoch:.1f}/{progress.epochs:g}"]
    if progress.loss is not None:
        fields.append(f"train/loss {progress.loss:.4f}")
    if progress.val_mse is not None:
        fields.append(f"val/mse {progress.val_mse:.5f}")
    if progress.images_per_second is not None:
        fields.append(f"{progress.images_per_second:.0f} images/s")
    return "  ".join([*fields, _eta(progress)])


def _wait(waiting: WaitingView) -> str:
    """What a job lacks; of one in the queue also its place, and when its turn may come."""
    if waiting.position is None:
        return waiting.missing
    guess = waiting.starts_in_seconds
    when = "" if guess is None else f", perhaps in {format_duration(guess)}"
    return f"place {waiting.position}{when}: waits for {waiting.missing}"


def _trials(progress: ProgressView) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in sorted((progress.trials or {}).items()) if count)
    best = "  ".join(f"{name} {value:.4g}" for name, value in (progress.best_metrics or {}).items())
    leads = "" if progress.best_trial is None else f"  best {progress.best_trial}: {best}"
    return f"trials: {counts}{leads}  {_eta(progress)}".rstrip()


def _eta(progress: ProgressView) -> str:
    return "ETA -" if progress.eta_seconds is None else f"ETA {format_duration(progress.eta_seconds)}"
