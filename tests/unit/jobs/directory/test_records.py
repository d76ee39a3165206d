import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Failure, NoteKind, Outcome, Phase, Progress, TrialRow, TrialState, Want
from jobs.errors import ErrorClass, FolderError


@pytest.mark.parametrize(("attempt", "fenced"), [(1, False), (2, False), (3, True)])
def test_an_attempt_is_fenced_when_a_newer_one_exists(attempt: int, fenced: bool) -> None:
    assert Control(attempt=attempt).fences(2) is fenced
    assert Control(attempt=attempt).stops(2) is fenced


@pytest.mark.parametrize("want", [Want.PAUSE, Want.CANCEL])
def test_an_attempt_stops_when_that_is_wanted(want: Want) -> None:
    assert Control(attempt=1, want=want).stops(1)
    assert not Control(attempt=1, want=want).fences(1)


def test_what_was_wanted_is_the_outcome() -> None:
    assert [want.outcome for want in Want] == [None, Outcome.PAUSED, Outcome.CANCELLED]


def test_trials_that_were_stopped_early_are_over_and_may_win() -> None:
    assert [state for state in TrialState if state.is_over] == ["stopped", "succeeded", "failed"]
    assert [state for state in TrialState if state.has_model] == ["stopped", "succeeded"]
    assert TrialRow(trial=0, state=TrialState.FAILED, params={}).is_over


def test_the_file_of_progress_keeps_its_field_names(tmp_path: Path) -> None:
    attempt = JobFolder(tmp_path).attempt(1)
    progress = Progress(time=2.0, last_progress_at=1.0, phase=Phase.TRAINING, trials={TrialState.RUNNING: 2})
    attempt.write_progress(progress)
    written = json.loads((attempt.path / "progress.json").read_text())
    assert (written["moved_at"], written["trials"]) == (1.0, {"running": 2})
    assert "last_progress_at" not in written
    (attempt.path / "progress.json").write_text('{"time": 3.0, "moved_at": 2.5, "phase": "data"}')
    assert attempt.read_progress() == Progress(time=3.0, last_progress_at=2.5, phase=Phase.DATA)


def test_a_failure_is_made_by_either_name_and_written_under_one() -> None:
    failure = Failure(error_class=ErrorClass.DATA, message="no digits")
    assert failure.model_dump(mode="json", by_alias=True) == {"class": "data", "message": "no digits"}
    assert Failure.model_validate({"class": "data", "message": "no digits"}) == failure


def test_a_kind_of_note_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    attempt = JobFolder(tmp_path).attempt(1)
    attempt.add_note(NoteKind.WORKERS_LOST, "worker 1 died")
    assert '"kind":"workers_lost"' in (attempt.path / "notes.jsonl").read_text()
    with pytest.raises(ValidationError):
        attempt.add_note("lost", "worker 1 died")  # type: ignore[arg-type]  # what mypy refuses, too


def test_records_of_another_release_are_read_as_far_as_they_are_known(tmp_path: Path) -> None:
    """C1: a field or a word that this release does not know made the file unreadable, and the attempt lost."""
    folder = JobFolder(tmp_path)
    attempt = folder.attempt(1)
    attempt.path.mkdir(parents=True)
    beat = {"time": 2.0, "moved_at": 1.0, "phase": "dreaming", "iteration": 5, "trials": {"won": 1, "running": 2}}
    (attempt.path / "progress.json").write_text(json.dumps(beat | {"new": [1]}))
    assert attempt.read_progress() == Progress(
        time=2.0, last_progress_at=1.0, phase=Phase.TRAINING, iteration=5, trials={TrialState.RUNNING: 2}
    )
    error = {"class": "of_tomorrow", "message": "m", "hint": "h"}
    (attempt.path / "result.json").write_text(json.dumps({"outcome": "failed", "error": error, "new": 1}))
    result = attempt.read_result()
    assert result is not None
    assert result.error == Failure(error_class=ErrorClass.INTERNAL, message="m")
    (folder.path / "control.json").write_text(json.dumps({"attempt": 3, "want": "drain", "new": None}))
    assert folder.read_control() == Control(attempt=3, want=Want.RUN), "the fence holds whatever else is wanted"
    (folder.path / "shipped.json").write_text(json.dumps({"run_id": "r", "new": 1}))
    assert folder.read_shipped().run_id == "r"
    (attempt.path / "trials.jsonl").write_text('{"trial": 0, "state": "failed", "params": {}, "new": 1}\n')
    assert attempt.trials()[0].state is TrialState.FAILED


@pytest.mark.parametrize("content", ["", "{", "[]", '{"time": "now"}', '{"time": 1, "secret": "hush"'])
def test_a_damaged_record_is_named_and_not_quoted(tmp_path: Path, content: str) -> None:
    """D1: an error quotes no content."""
    attempt = JobFolder(tmp_path).attempt(1)
    attempt.path.mkdir(parents=True)
    (attempt.path / "progress.json").write_text(content)
    with pytest.raises(FolderError, match=r"progress\.json") as caught:
        attempt.read_progress()
    assert "hush" not in str(caught.value)
    assert "now" not in str(caught.value)


def test_a_folder_in_a_files_place_is_an_error_and_nothing_is_waited_for(tmp_path: Path) -> None:
    attempt = JobFolder(tmp_path).attempt(1)
    (attempt.path / "progress.json").mkdir(parents=True)
    os.mkfifo(attempt.path / "result.json")
    for read in (attempt.read_progress, attempt.read_result):
        with pytest.raises(FolderError, match="not a file"):
            read()
