"""Control plane and drivers that share a bucket and nothing else; drivers' machines are lost, the bucket goes away."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.backends.fakes import FakeLauncher
from jobs.directory.layout import JobFolder
from jobs.directory.records import NoteKind
from jobs.interfaces import ProcessState, Submission
from jobs.storage.job_files import StoredJobFiles
from jobs.storage.locations import open_storage
from jobs.storage.objects import ObjectStore
from seqae.checkpoints.manifest import verify
from service.db.models import WaitingFor
from service.job_state import State
from service.settings import ReconcilerSettings
from tests.control_plane import ControlPlane
from tests.object_storage import BUCKET, S3Server, running_s3
from tests.tiny import TINY

pytestmark = pytest.mark.timeout(540)

_INTERVAL = 4
"""Iterations between two checkpoints."""

_SPEC = TINY | {"scaling": {"workers": 1}, "schedule": TINY["schedule"] | {"epochs": 5}}
"""20 iterations."""


class _ProcessLauncher(FakeLauncher):
    """A cluster whose drivers are processes of this machine."""

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__()
        self._environment = environment
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def submit(self, submission: Submission) -> None:
        super().submit(submission)
        if submission.submission_id in self.processes:
            return
        attempt = JobFolder(submission.job_dir).attempt(submission.attempt)
        attempt.path.mkdir(parents=True)
        command = [sys.executable, "-m", "tests.storage_driver"]
        command += ["--job-dir", str(submission.job_dir), "--attempt", str(submission.attempt)]
        with attempt.log.open("ab") as log:
            self.processes[submission.submission_id] = subprocess.Popen(
                command, env=self._environment | dict(submission.environment), stdout=log, stderr=log
            )
        self.run(submission.submission_id)

    def stop(self, submission_id: str) -> None:
        self.observe()
        super().stop(submission_id)
        if self.processes[submission_id].poll() is None:
            self.processes[submission_id].send_signal(signal.SIGTERM)

    def observe(self) -> None:
        """Notices which drivers have ended."""
        for name, process in self.processes.items():
            state = self.state(name)
            if process.poll() is not None and state is not None and not state.is_terminal():
                self.finish(name, ProcessState.SUCCEEDED if process.returncode == 0 else ProcessState.FAILED)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with running_s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def launcher(s3: S3Server) -> Iterator[_ProcessLauncher]:
    made = _ProcessLauncher({**os.environ, "OMP_NUM_THREADS": "1", "SEQAE_TEST_PAUSE": "4"})
    yield made
    for process in made.processes.values():
        process.kill()
        process.wait()


@pytest.fixture
def store(s3: S3Server) -> ObjectStore:
    return open_storage(f"s3://{BUCKET}/seqae")


@pytest.fixture
def plane(tmp_path: Path, launcher: _ProcessLauncher, store: ObjectStore) -> ControlPlane:
    files = StoredJobFiles(tmp_path / "control" / "jobs", store, f"s3://{BUCKET}/seqae", tmp_path / "node")
    # Its clock runs five times as fast as the drivers'.
    settings = ReconcilerSettings(heartbeat_stale=10, retry_wait=1, retry_wait_max=2, exit_grace=300)
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    return ControlPlane(tmp_path / "control", url, settings, launcher=launcher, files=files)


def _until(
    plane: ControlPlane, launcher: _ProcessLauncher, condition: Callable[[], bool], seconds: float = 240
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.2)
        launcher.observe()
        plane.tick()


def _stored_steps(store: ObjectStore, job_id: str) -> set[int]:
    """Checkpoints in the bucket that are whole."""
    keys = [info.key.split("/") for info in store.list(f"jobs/{job_id}")]
    return {int(parts[-2]) for parts in keys if parts[-1] == "manifest.json"}


def test_a_machine_is_lost_and_the_next_goes_on_from_the_bucket(
    plane: ControlPlane, launcher: _ProcessLauncher, s3: S3Server, store: ObjectStore, tmp_path: Path
) -> None:
    job_id = plane.submit(_SPEC)
    first, node = f"{job_id}-1", tmp_path / "node"
    _until(plane, launcher, lambda: first in launcher.processes)
    here = JobFolder(node / "jobs" / first / job_id)
    _until(plane, launcher, lambda: 8 in _stored_steps(store, job_id))

    # The machine goes, with its disk.
    launcher.processes[first].kill()
    launcher.processes[first].wait()
    done = max(row.step for row in here.history() if "train/loss" in row.metrics)
    shutil.rmtree(node)

    # The bucket goes as well, for a while: nobody takes the job for lost because of that.
    s3.is_down = True
    row = plane.store.job(job_id)
    for _ in range(3):
        plane.tick()
    waiting = plane.store.job(job_id).waiting
    assert waiting is not None
    assert waiting.reason is WaitingFor.STORAGE
    assert plane.state(job_id) is row.state is State.RUNNING
    s3.is_down = False

    _until(plane, launcher, lambda: f"{job_id}-2" in launcher.processes)
    _until(plane, launcher, lambda: plane.state(job_id) is State.SUCCEEDED)
    known = JobFolder(tmp_path / "control" / "jobs" / job_id)
    (resumed,) = [note.text for note in known.attempt(2).notes() if note.kind is NoteKind.RESUMED]
    went_on_from = int(resumed.split()[2])
    assert done - _INTERVAL <= went_on_from <= done
    # The curve is whole, and nothing in it is doubled.
    assert [row.step for row in known.history() if "train/loss" in row.metrics] == list(range(1, 21))
    result = known.attempt(2).read_result()
    assert result is not None
    assert result.checkpoint is not None
    verify(known.path / result.checkpoint)
    # What the driver printed is there, and its machine is left clean.
    assert b"loss" in plane.service.logs(job_id).content
    launcher.processes[f"{job_id}-2"].wait(30)
    assert list((node / "jobs").iterdir()) == []
    # The data set came with the first machine, and was fetched by the second.
    assert b"fetched data set" in known.attempt(2).log.read_bytes()

    _until(plane, launcher, lambda: plane.store.job(job_id).cleaned_up)
    assert plane.service.delete(job_id)
    assert store.list(f"jobs/{job_id}") == []


@pytest.mark.slow
def test_a_pause_goes_through_the_bucket(
    plane: ControlPlane, launcher: _ProcessLauncher, store: ObjectStore, tmp_path: Path
) -> None:
    job_id = plane.submit(_SPEC)
    _until(plane, launcher, lambda: 4 in _stored_steps(store, job_id))
    plane.service.pause(job_id)
    _until(plane, launcher, lambda: plane.state(job_id) is State.PAUSED)
    assert launcher.processes[f"{job_id}-1"].wait(30) == 0
    known = JobFolder(tmp_path / "control" / "jobs" / job_id)
    result = known.attempt(1).read_result()
    assert result is not None
    assert result.outcome == "paused"
    assert max(_stored_steps(store, job_id)) == result.iterations
