"""Layout of the job folder: its files, and how they are read and written.

The control plane and an attempt on the cluster communicate by these files, which outlive both.

    spec.json                the JobSpec, with the version of its format
    control.json             what the control plane wants; an attempt older than it names is fenced
    shipped.json             how far the metrics have been copied to the tracking server
    start/, start.json       weights of another model that training starts from, and which model that was
    optuna.journal           of a search: its trials, as Optuna knows them
    comparisons.jsonl        of a search by eye: what people said of pairs of trials, written by the control plane
    trials/<k>/              a trial of a search: a folder of the same shape, without a control.json of its own
    trials/<k>/seeds/<s>/    the same training with a further seed
    retrained/               the winner's settings, trained once more
    attempts/<n>/
        progress.json        heartbeat
        metrics.jsonl        one row a step, append-only
        data.json            the data set that the attempt works on
        notes.jsonl          things worth an event: a damaged checkpoint skipped, workers lost
        trials.jsonl         a search's trials, one row whenever one changes
        frames/<step>.png    film strips, of the start and of each evaluation; a figure job's figure
        artifacts/           files for the tracking server, as they are
        checkpoints/<step>/  the newest, the best and the last
        driver.log
        search.json          what a search has found
        test.json            the model that a successful attempt ends with, evaluated on the test images
        result.json          written last: its presence means that the attempt has ended

Whole files are replaced atomically, so a reader sees the old or the new one, never half of one.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from jobs.directory.files import append_record, read_record, read_records, write_atomically
from jobs.directory.newest_trials import newest_trials
from jobs.directory.records import (
    Control,
    DatasetRecord,
    EvaluationReport,
    MetricRow,
    Note,
    NoteKind,
    Progress,
    Result,
    SearchReport,
    Shipped,
    StartRecord,
    TrialRow,
)
from jobs.directory.stored_specs import spec_from_json, spec_to_json
from jobs.errors import FolderError, SpecUnreadable
from jobs.specs import AnySpec
from seqae.evaluation.names import modern_row

__all__ = ["AttemptFolder", "JobFolder"]


class AttemptFolder:
    """Folder of one attempt of a job or trial.

    Args:
        path: absolute; it need not exist.
        number: of the attempt.
    """

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number
        self.checkpoints = path / "checkpoints"
        self.frames = path / "frames"
        self.artifacts = path / "artifacts"
        self.log = path / "driver.log"

    def read_progress(self) -> Progress | None:
        """The newest heartbeat, or None before the first.

        Raises:
            FolderError: the file is damaged.
        """
        return read_record(self.path / "progress.json", Progress)

    def write_progress(self, progress: Progress) -> None:
        """Replaces progress.json."""
        write_atomically(self.path / "progress.json", progress.model_dump_json(by_alias=True))

    def read_data(self) -> DatasetRecord | None:
        """The data set that the attempt works on, once it is known. Raises: FolderError."""
        return read_record(self.path / "data.json", DatasetRecord)

    def write_data(self, record: DatasetRecord) -> None:
        """Replaces data.json."""
        write_atomically(self.path / "data.json", record.model_dump_json())

    def read_report(self) -> EvaluationReport | None:
        """The evaluation on the test images, if there is one. Raises: FolderError."""
        return read_record(self.path / "test.json", EvaluationReport)

    def write_report(self, report: EvaluationReport) -> None:
        """Replaces test.json."""
        write_atomically(self.path / "test.json", report.model_dump_json())

    def read_result(self) -> Result | None:
        """How the attempt ended, or None while it has not.

        Raises:
            FolderError: the file is damaged.
        """
        return read_record(self.path / "result.json", Result)

    def write_result(self, result: Result) -> None:
        """Writes result.json: the attempt has ended."""
        write_atomically(self.path / "result.json", result.model_dump_json(by_alias=True))

    def add_metrics(self, step: int, metrics: Mapping[str, float], now: float | None = None) -> None:
        """Appends a row to metrics.jsonl.

        Args:
            step: iteration, or epoch for the metrics of an epoch.
            metrics: finite values by name.
            now: seconds since 1970; the clock's time when left out.
        """
        row = MetricRow(time=time.time() if now is None else now, step=step, metrics=dict(metrics))
        append_record(self.path / "metrics.jsonl", row)

    def metrics(self) -> Iterator[MetricRow]:
        """Rows as written: after a restart of the workers steps may appear twice; see `JobFolder.history`."""
        return read_records(self.path / "metrics.jsonl", MetricRow)

    def add_note(self, kind: NoteKind, text: str) -> None:
        """Appends a note to notes.jsonl; the control plane makes an event of it."""
        append_record(self.path / "notes.jsonl", Note(time=time.time(), kind=kind, text=text))

    def notes(self) -> list[Note]:
        """All notes, oldest first."""
        return list(read_records(self.path / "notes.jsonl", Note))

    def add_trial(self, row: TrialRow) -> None:
        """Appends a row to trials.jsonl."""
        append_record(self.path / "trials.jsonl", row)

    def trials(self) -> dict[int, TrialRow]:
        """The newest row of each trial; rows of older releases have today's names."""
        rows = newest_trials(self.path / "trials.jsonl")
        return {trial: row.model_copy(update={"metrics": modern_row(row.metrics)}) for trial, row in rows.items()}

    def read_search_report(self) -> SearchReport | None:
        """What a search has found, once it has ended. Raises: FolderError."""
        return read_record(self.path / "search.json", SearchReport)

    def write_search_report(self, report: SearchReport) -> None:
        """Replaces search.json."""
        write_atomically(self.path / "search.json", report.model_dump_json())

    def frame_steps(self) -> list[int]:
        """Steps that have a film strip, in order."""
        return _numbers(self.frames, suffix=".png")

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint folder, whole or not, in order."""
        return _numbers(self.checkpoints)


class JobFolder:
    """Folder of a job, or of a trial within one.

    Args:
        path: absolute.
        control: folder whose control.json counts; a trial obeys its search's.
    """

    def __init__(self, path: Path, control: Path | None = None) -> None:
        self.path = path
        self.answers = path / "comparisons.jsonl"
        self._control = (path if control is None else control) / "control.json"
        self.start = path / "start"

    def read_spec(self) -> AnySpec:
        """The job's spec.

        Raises:
            FolderError: spec.json is missing or is not a valid spec.
        """
        path = self.path / "spec.json"
        try:
            return spec_from_json(path.read_bytes())
        except OSError as error:
            raise FolderError(f"{path}: {error.strerror}") from error
        except SpecUnreadable as error:
            raise FolderError(f"{path}: {error}") from error

    def write_spec(self, spec: AnySpec) -> None:
        """Replaces spec.json."""
        write_atomically(self.path / "spec.json", spec_to_json(spec))

    def read_control(self) -> Control:
        """What is wanted; before the control plane has written anything: run, whatever the attempt.

        Raises:
            FolderError: control.json is damaged.
        """
        return read_record(self._control, Control) or Control(attempt=0)

    def write_control(self, control: Control) -> None:
        """Replaces control.json, whatever it says; see `jobs.directory.fencing.issue_control` for the guarded write."""
        write_atomically(self._control, control.model_dump_json())

    def read_start(self) -> StartRecord | None:
        """The model whose weights are in `start`; None where there are none, or not all yet. Raises: FolderError."""
        return read_record(self.path / "start.json", StartRecord)

    def write_start(self, record: StartRecord) -> None:
        """Replaces start.json: the weights are there."""
        write_atomically(self.path / "start.json", record.model_dump_json())

    def attempt(self, number: int) -> AttemptFolder:
        """Folder of an attempt, whether it exists or not."""
        return AttemptFolder(self.path / "attempts" / str(number), number)

    def attempts(self) -> list[AttemptFolder]:
        """Those that have a folder, oldest first."""
        return [self.attempt(number) for number in _numbers(self.path / "attempts")]

    def trial(self, index: int) -> "JobFolder":
        """Folder of a trial of this search, whether it exists or not."""
        return JobFolder(self.path / "trials" / str(index), control=self._control.parent)

    def trials(self) -> dict[int, TrialRow]:
        """The newest row of each trial over all attempts, by index."""
        rows: dict[int, TrialRow] = {}
        for attempt in self.attempts():
            rows |= attempt.trials()
        return dict(sorted(rows.items()))

    def checkpoint_paths(self) -> list[Path]:
        """Checkpoints of all attempts, newest first: by step, and of the same step the later attempt's."""
        found = [(step, attempt) for attempt in self.attempts() for step in attempt.checkpoint_steps()]
        found.sort(key=lambda item: (item[0], item[1].number), reverse=True)
        return [attempt.checkpoints / str(step) for step, attempt in found]

    def history(self, after: Mapping[str, int] | None = None) -> Iterator[MetricRow]:
        """Metrics of all attempts as one curve: each name and step once, the steps of a name ascending.

        An attempt that resumes repeats steps which the one before had recorded already; the first record counts. Rows
        of older releases have today's names.

        Args:
            after: the last step of each name that is known already; rows up to there are left out.
        """
        frontier = dict(after or {})
        for attempt in self.attempts():
            for row in attempt.metrics():
                metrics = modern_row(row.metrics)
                fresh = {name: value for name, value in metrics.items() if row.step > frontier.get(name, -1)}
                if fresh:
                    frontier.update(dict.fromkeys(fresh, row.step))
                    yield MetricRow(time=row.time, step=row.step, metrics=fresh)

    def read_shipped(self) -> Shipped:
        """How far the folder has been copied to the tracking server; not at all where there is no file."""
        return read_record(self.path / "shipped.json", Shipped) or Shipped()

    def write_shipped(self, shipped: Shipped) -> None:
        """Replaces shipped.json."""
        write_atomically(self.path / "shipped.json", shipped.model_dump_json(by_alias=True, exclude_defaults=True))


def _numbers(folder: Path, suffix: str = "") -> list[int]:
    if not folder.is_dir():
        return []
    stems = (entry.name.removesuffix(suffix) for entry in folder.iterdir() if entry.name.endswith(suffix))
    return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdecimal())
