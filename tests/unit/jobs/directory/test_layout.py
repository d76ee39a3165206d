import threading
from pathlib import Path

import pytest

from jobs.directory.files import write_atomically
from jobs.directory.layout import JobFolder
from jobs.directory.records import (
    Control,
    Failure,
    NoteKind,
    Outcome,
    Phase,
    Progress,
    Result,
    TrialRow,
    TrialState,
    Want,
)
from jobs.errors import ErrorClass, FolderError
from jobs.specs import TrainSpec, TuneSpec


def test_a_spec_reads_back_as_it_was_written(folder: JobFolder, spec: TrainSpec, tune_spec: TuneSpec) -> None:
    assert folder.read_spec() == spec
    folder.write_spec(tune_spec)
    assert folder.read_spec() == tune_spec


def test_a_missing_or_damaged_spec_is_named(folder: JobFolder) -> None:
    path = folder.path / "spec.json"
    path.write_text("{")
    with pytest.raises(FolderError, match=r"spec\.json"):
        folder.read_spec()
    path.unlink()
    with pytest.raises(FolderError, match=r"spec\.json"):
        folder.read_spec()


def test_control_runs_whatever_attempt_until_it_is_written(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    assert folder.read_control() == Control(attempt=0, want=Want.RUN)
    folder.write_control(Control(attempt=2, want=Want.PAUSE))
    assert folder.read_control() == Control(attempt=2, want=Want.PAUSE)


def test_a_trial_obeys_the_control_of_its_search(folder: JobFolder) -> None:
    trial = folder.trial(3)
    assert trial.path == folder.path / "trials" / "3"
    folder.write_control(Control(attempt=5, want=Want.CANCEL))
    assert trial.read_control() == Control(attempt=5, want=Want.CANCEL)
    assert trial.trial(0).read_control().attempt == 5


def test_a_result_has_its_error_class_under_class(folder: JobFolder) -> None:
    attempt = folder.attempt(1)
    assert attempt.read_result() is None
    error = Failure(error_class=ErrorClass.DATA, message="no digits")
    result = Result(outcome=Outcome.FAILED, error=error)
    attempt.write_result(result)
    assert attempt.read_result() == result
    assert '"class":"data"' in (attempt.path / "result.json").read_text()


def test_attempts_and_steps_come_in_the_order_of_numbers(folder: JobFolder) -> None:
    for number in (10, 9, 1):
        folder.attempt(number).path.mkdir(parents=True)
    (folder.path / "attempts" / "notes").mkdir()
    assert [attempt.number for attempt in folder.attempts()] == [1, 9, 10]
    attempt = folder.attempt(9)
    attempt.frames.mkdir()
    for name in ("100.png", "20.png", ".20.png.x1"):
        (attempt.frames / name).touch()
    assert attempt.frame_steps() == [20, 100]
    assert attempt.checkpoint_steps() == []


def test_checkpoints_are_newest_first_over_all_attempts(folder: JobFolder) -> None:
    for number, steps in ((1, (8, 4, 12)), (2, (8, 16))):
        for step in steps:
            (folder.attempt(number).checkpoints / str(step)).mkdir(parents=True)
    found = [(int(path.name), int(path.parent.parent.name)) for path in folder.checkpoint_paths()]
    assert found == [(16, 2), (12, 1), (8, 2), (8, 1), (4, 1)]


def test_history_joins_attempts_without_gaps_or_doubles(folder: JobFolder) -> None:
    first, second = folder.attempt(1), folder.attempt(2)
    for step in range(1, 11):
        first.add_metrics(step, {"loss": 1.0})
    first.add_metrics(8, {"test/mse": 0.5})
    # It resumed from 8, and evaluates at 8 no more, but at 10 for the first time.
    for step in (9, 10, 11):
        second.add_metrics(step, {"loss": 2.0})
    second.add_metrics(10, {"test/mse": 0.4})
    rows = list(folder.history())
    losses = {row.step: row.metrics["loss"] for row in rows if "loss" in row.metrics}
    assert list(losses) == list(range(1, 12))
    assert losses[10] == 1.0
    assert losses[11] == 2.0
    assert [row.step for row in rows if "test/mse" in row.metrics] == [8, 10]


def test_history_after_what_is_known(folder: JobFolder) -> None:
    attempt = folder.attempt(1)
    for step in (1, 2, 3):
        attempt.add_metrics(step, {"a": 1.0, "b": 1.0}, now=float(step))
    rows = list(folder.history(after={"a": 2, "b": 1}))
    assert [(row.step, sorted(row.metrics), row.time) for row in rows] == [(2, ["b"], 2.0), (3, ["a", "b"], 3.0)]


def test_a_torn_line_is_left_out(folder: JobFolder) -> None:
    attempt = folder.attempt(1)
    attempt.add_metrics(1, {"loss": 1.0})
    with (attempt.path / "metrics.jsonl").open("a") as file:
        file.write('{"time": 1.0, "step": 2, "met')
    assert [row.step for row in attempt.metrics()] == [1]


def test_the_line_after_a_torn_one_is_kept(folder: JobFolder) -> None:
    attempt = folder.attempt(1)
    attempt.add_metrics(1, {"loss": 1.0})
    path = attempt.path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"time": 1.0, "st')
    attempt.add_metrics(3, {"loss": 1.0})
    assert [row.step for row in attempt.metrics()] == [1, 3]


def test_the_last_row_of_a_trial_counts(folder: JobFolder) -> None:
    folder.attempt(1).add_trial(TrialRow(trial=1, state=TrialState.RUNNING, params={"bottleneck": 4}))
    folder.attempt(1).add_trial(TrialRow(trial=0, state=TrialState.SUCCEEDED, params={}))
    folder.attempt(2).add_trial(TrialRow(trial=1, state=TrialState.STOPPED, params={"bottleneck": 4}))
    assert {trial: row.state for trial, row in folder.trials().items()} == {0: "succeeded", 1: "stopped"}
    assert folder.trials()[1].params["bottleneck"] == 4


def test_notes_and_progress(folder: JobFolder) -> None:
    attempt = folder.attempt(1)
    attempt.add_note(NoteKind.RESUMED, "from iteration 4 of 12")
    assert [(note.kind, note.text) for note in attempt.notes()] == [("resumed", "from iteration 4 of 12")]
    assert attempt.read_progress() is None
    progress = Progress(time=1.0, last_progress_at=1.0, phase=Phase.TRAINING, trials={TrialState.RUNNING: 2})
    attempt.write_progress(progress)
    assert attempt.read_progress() == progress


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = ["a" * 100_000, "b" * 50_000]
    write_atomically(path, texts[0])
    done = threading.Event()

    def write() -> None:
        for turn in range(100):
            write_atomically(path, texts[turn % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert path.read_text() in texts
    writer.join()
    assert list(tmp_path.iterdir()) == [path]
