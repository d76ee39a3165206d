"""Progress display of a job: a bar in a terminal, lines anywhere else."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from service.client import Client
from service.schemas.jobs import JobView, ProgressView

__all__ = ["follow"]

_LINE_SECONDS = 10.0


def follow(client: Client, job_id: str, console: Console | None = None) -> JobView:
    """Shows a job's progress until it has ended.

    Args:
        client: of the service that has the job.
        job_id: of the job.
        console: where it is shown; standard output when left out.

    Returns:
        The job as it ended.
    """
    console = console or Console()
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
    )
    if not console.is_terminal:
        return client.wait(job_id, on_poll=_Lines(console).show)
    with Progress(*columns, console=console, transient=True) as progress:
        bar = _Bar(progress)
        return client.wait(job_id, on_poll=bar.show, poll=0.5)


class _Bar:
    """Updates a progress bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task("", total=None, text="")

    def show(self, job: JobView) -> None:
        done, total = (job.progress.iteration, job.progress.iterations) if job.progress else (0, 0)
        self._progress.update(
            self._task, description=job.state.lower(), completed=done, total=total or None, text=_describe(job)
        )


class _Lines:
    """Prints a line when the state changes, and every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._state = ""
        self._printed_at = 0.0

    def show(self, job: JobView) -> None:
        now = time.monotonic()
        if job.state != self._state or now - self._printed_at > _LINE_SECONDS:
            self._state, self._printed_at = job.state, now
            self._console.print(f"{job.state.lower():<11} {_describe(job)}".rstrip(), highlight=False)


def _describe(job: JobView) -> str:
    progress = job.progress
    if progress is None or job.state.is_terminal:
        return ""
    if progress.trials:
        return _trials(progress)
    if not progress.iteration:
        return progress.phase
    fields = [f"epoch {progress.epoch:.1f}/{progress.epochs:g}"]
    if progress.loss is not None:
        fields.append(f"loss {progress.loss:.4f}")
    if progress.val_mse is not None:
        fields.append(f"error {progress.val_mse:.4f}")
    if progress.images_per_second is not None:
        fields.append(f"{progress.images_per_second:.0f} images/s")
    return "  ".join([*fields, _eta(progress)])


def _trials(progress: ProgressView) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in sorted((progress.trials or {}).items()) if count)
    return f"trials: {counts}  {_eta(progress)}".rstrip()


def _eta(progress: ProgressView) -> str:
    if progress.eta_seconds is None:
        return "ETA -"
    minutes, seconds = divmod(round(progress.eta_seconds), 60)
    return f"ETA {minutes}:{seconds:02d}"
