import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Failure, NoteKind, Outcome, Phase, Progress, TrialRow, TrialState, Want
from jobs.errors import ErrorClass


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
