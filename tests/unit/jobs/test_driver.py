"""A driver in this process: its work is the test's, and no cluster is there."""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.directory.records import Control, Outcome, Phase, Progress, Result, Shipped, Want
from jobs.driver import DriverContext, _write_result, drive
from jobs.errors import ErrorClass, FencedError
from seqae.errors import DataError

Work = Callable[[DriverContext], Result]
Drive = Callable[[Work], None]

DONE = Result(outcome=Outcome.SUCCEEDED, metrics={"test_mse": 0.1}, iterations=12)


@pytest.fixture
def run(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    """Drives the first attempt. A driver sets handlers for the rest of its process's life; they are put back here."""
    for name in ("MLFLOW_TRACKING_URI", "SEQAE_RUN_ID", "SEQAE_CACHE_DIR", "SEQAE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)

    def run(work: Work) -> None:
        assert drive(work, ["--job-dir", str(folder.path), "--attempt", "1"]) == 0

    yield run
    signal.signal(signal.SIGTERM, before)


def _wait_for_ever(_: DriverContext) -> Result:
    while True:
        time.sleep(0.05)


def test_the_works_result_is_written(run: Drive, folder: JobFolder) -> None:
    seen: list[DriverContext] = []

    def work(context: DriverContext) -> Result:
        seen.append(context)
        progress = context.attempt.read_progress()
        assert progress is not None
        assert progress.phase is Phase.STARTING
        assert context.attempt.read_result() is None
        return DONE

    run(work)
    assert folder.attempt(1).read_result() == DONE
    (context,) = seen
    assert context.cache_dir == folder.path.parent.parent / "data"
    assert (context.data_dir, context.tracking, context.run_id) == (None, None, None)


def test_folders_come_from_the_environment(run: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQAE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SEQAE_DATA_DIR", str(tmp_path / "own"))

    def work(context: DriverContext) -> Result:
        assert (context.cache_dir, context.data_dir) == (tmp_path / "cache", tmp_path / "own")
        return DONE

    run(work)


def test_an_error_is_classed(run: Drive, folder: JobFolder, caplog: pytest.LogCaptureFixture) -> None:
    def work(_: DriverContext) -> Result:
        raise DataError("/data/coco: no such folder")

    run(work)
    result = folder.attempt(1).read_result()
    assert result is not None
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert (result.error.error_class, "no such folder" in result.error.message) == (ErrorClass.DATA, True)
    assert "Traceback" in caplog.text


def test_sigterm_that_nobody_wanted_is_the_clusters_doing(run: Drive, folder: JobFolder) -> None:
    def work(_: DriverContext) -> Result:
        os.kill(os.getpid(), signal.SIGTERM)
        return _wait_for_ever(_)

    run(work)
    result = folder.attempt(1).read_result()
    assert result is not None
    assert result.error is not None
    assert result.error.error_class is ErrorClass.INFRASTRUCTURE


@pytest.mark.parametrize(("want", "outcome"), [(Want.PAUSE, Outcome.PAUSED), (Want.CANCEL, Outcome.CANCELLED)])
def test_the_outcome_of_sigterm_is_what_was_wanted(run: Drive, folder: JobFolder, want: Want, outcome: Outcome) -> None:
    def work(context: DriverContext) -> Result:
        # While workers train, they are given time: the driver does not end by itself yet.
        context.attempt.write_progress(Progress(time=time.time(), last_progress_at=0.0, phase=Phase.TRAINING))
        folder.write_control(Control(attempt=1, want=want))
        os.kill(os.getpid(), signal.SIGTERM)
        return _wait_for_ever(context)

    run(work)
    result = folder.attempt(1).read_result()
    assert result is not None
    assert result.outcome is outcome


def test_an_attempt_that_is_stopped_while_it_starts_ends_in_one_line(
    run: Drive, folder: JobFolder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F3: SIGTERM in the middle of `import ray` leaves half of it, which can't be imported again."""
    caplog.set_level(logging.INFO)
    folder.write_control(Control(attempt=1, want=Want.CANCEL))
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))

    def work(_: DriverContext) -> Result:
        raise SystemExit(143)

    run(work)
    assert [record.message for record in caplog.records] == ["attempt 1: stopped, cancelled"]


def test_a_driver_that_still_waits_for_workers_obeys_by_itself(run: Drive, folder: JobFolder) -> None:
    started = time.monotonic()

    def work(context: DriverContext) -> Result:
        folder.write_control(Control(attempt=1, want=Want.CANCEL))
        return _wait_for_ever(context)

    run(work)
    result = folder.attempt(1).read_result()
    assert result is not None
    assert result.outcome is Outcome.CANCELLED
    assert time.monotonic() - started < 10


def test_a_fenced_attempt_writes_no_result(run: Drive, folder: JobFolder) -> None:
    def work(context: DriverContext) -> Result:
        folder.write_control(Control(attempt=2))
        raise FencedError("attempt 2 has taken over")

    run(work)
    assert folder.attempt(1).read_result() is None
    assert [note.kind for note in folder.attempt(1).notes()] == ["fenced"]
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    time.sleep(2.5)
    assert signals == [], "no process is asked to end that has ended"


def test_a_stale_driver_ends_by_itself(run: Drive, folder: JobFolder) -> None:
    def work(context: DriverContext) -> Result:
        folder.write_control(Control(attempt=2))
        return _wait_for_ever(context)

    run(work)
    assert folder.attempt(1).read_result() is None


def test_a_result_that_comes_too_late_is_not_written(run: Drive, folder: JobFolder) -> None:
    def work(_: DriverContext) -> Result:
        folder.write_control(Control(attempt=2))
        return DONE

    run(work)
    assert folder.attempt(1).read_result() is None


def test_the_heartbeat_goes_on_while_nothing_moves(run: Drive, folder: JobFolder) -> None:
    first: list[Progress] = []

    def work(context: DriverContext) -> Result:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            progress = context.attempt.read_progress()
            assert progress is not None
            first.append(progress)
            if progress.time > first[0].time:
                return DONE
            time.sleep(0.1)
        pytest.fail("the heartbeat stands still")

    run(work)
    assert first[-1].last_progress_at == first[0].last_progress_at


def test_a_file_that_can_not_be_read_does_not_stop_the_heartbeat(
    run: Drive, folder: JobFolder, caplog: pytest.LogCaptureFixture
) -> None:
    def work(context: DriverContext) -> Result:
        (context.attempt.path / "progress.json").write_text("{")
        deadline = time.monotonic() + 20
        while "heartbeat: FolderError" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        context.attempt.write_progress(Progress(time=0.0, last_progress_at=0.0, phase=Phase.DATA))
        while not (progress := context.attempt.read_progress()) or progress.time == 0.0:
            assert time.monotonic() < deadline, "the heartbeat stands still"
            time.sleep(0.05)
        assert (progress.phase, progress.last_progress_at) == (Phase.DATA, 0.0)
        return DONE

    run(work)
    assert folder.attempt(1).read_result() == DONE


def test_without_mlflow_the_work_is_done_all_the_same(
    run: Drive, folder: JobFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("SEQAE_RUN_ID", "0" * 32)

        def work(context: DriverContext) -> Result:
            assert context.tracking is not None
            context.attempt.add_metrics(1, {"train/loss": 1.0})
            return DONE

        with caplog.at_level(logging.WARNING):
            run(work)
    assert folder.attempt(1).read_result() == DONE
    assert "kept for later" in caplog.text
    assert folder.read_shipped() == Shipped()


def test_on_a_full_disk_film_strips_make_room_for_the_result(run: Drive, folder: JobFolder) -> None:
    class Full(AttemptFolder):
        def write_result(self, result: Result) -> None:
            if self.frame_steps():
                raise OSError(28, "No space left on device")
            super().write_result(result)

    class FullFolder(JobFolder):
        def attempt(self, number: int) -> AttemptFolder:
            return Full(self.path / "attempts" / str(number), number)

    full = FullFolder(folder.path)
    attempt = full.attempt(1)
    attempt.frames.mkdir(parents=True)
    (attempt.frames / "4.png").write_bytes(b"film")
    _write_result(DriverContext(full, attempt, folder.path, None, None, None), DONE)
    assert folder.attempt(1).read_result() == DONE
