"""Backups in the middle of a soak with kills, on fakes: each restores to a state in which every job ends as it should.

After each file that is copied all jobs get further by three steps: a checkpoint is pruned, an attempt dies, a result is
written. `tests/chaos/test_backup.py` has real processes.
"""

import random
import shutil
from pathlib import Path

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome
from seqae.checkpoints import manifest
from seqae.errors import CheckpointError
from service.backup.create import create_backup
from service.job_state import ENDED, State
from service.settings import Settings
from tests.control_plane import ControlPlane
from tests.unit.service.backup.conftest import Restore, plane_of

JOBS, LAST, STRIDE = 3, 24, 4


def resume_step(folder: JobFolder) -> int:
    """Step of the newest checkpoint that is whole, as a worker finds it."""
    for path in folder.checkpoint_paths():
        try:
            return manifest.verify(path).iteration
        except CheckpointError:
            continue
    return 0


class Drivers:
    """Does by and by what drivers of all jobs do: trains, writes checkpoints, prunes, ends, or is killed."""

    def __init__(self, plane: ControlPlane, rng: random.Random, deaths: float) -> None:
        self.plane = plane
        self._rng = rng
        self._deaths = deaths
        self._steps: dict[str, int] = {}
        self.steps = 0
        """Steps that all jobs have made together."""

    def act(self, times: int = 1) -> None:
        """One step of each job that is on the cluster, and a round of the reconciler."""
        for _ in range(times):
            for job in self.plane.store.page()[0]:
                if job.state in (State.STARTING, State.RUNNING):
                    driver = self.plane.driver(job.id)
                    if driver.process is not None and not driver.process.is_terminal():
                        self._train(job.id)
            self.plane.tick()

    def _train(self, job_id: str) -> None:
        driver = self.plane.driver(job_id)
        step = self._steps.setdefault(driver.name, resume_step(driver.job_folder)) + 1
        self._steps[driver.name] = step
        self.steps += 1
        driver.beat(step)
        driver.folder.add_metrics(step, {"train/loss": 1.0 / step}, now=self.plane.now.timestamp())
        if step >= LAST:
            driver.finish()
        elif step % STRIDE == 0:
            self._save(driver.folder.checkpoints, step)
            for path in driver.job_folder.checkpoint_paths()[2:]:
                shutil.rmtree(path)
        if self._rng.random() < self._deaths:
            driver.die()

    def _save(self, checkpoints: Path, step: int) -> None:
        draft = checkpoints / f".{step}.1.tmp"
        draft.mkdir(parents=True)
        (draft / "model.safetensors").write_bytes(self._rng.randbytes(200_000))
        manifest.write(draft, iteration=step, metrics={})
        draft.rename(checkpoints / str(step))


def check(plane: ControlPlane) -> None:
    """Every job has ended as it should: one success, and a whole curve."""
    for job in plane.store.page()[0]:
        assert job.state == State.SUCCEEDED, (job.state, job.error_message)
        assert job.retries == 0
        folder = JobFolder(plane.jobs_dir / job.id)
        results = [result for attempt in folder.attempts() if (result := attempt.read_result()) is not None]
        assert [result.outcome for result in results].count(Outcome.SUCCEEDED) == 1
        assert [row.step for row in folder.history() if "train/loss" in row.metrics] == list(range(1, LAST + 1))


@pytest.mark.parametrize("begun_after", [3, 14])
def test_a_backup_in_the_middle_restores_to_jobs_that_end_as_they_should(
    lab: ControlPlane, home: Path, restore: Restore, tmp_path: Path, begun_after: int
) -> None:
    rng = random.Random(begun_after)
    ids = [lab.submit() for _ in range(JOBS)]
    drivers = Drivers(lab, rng, deaths=0.06)
    for _ in range(begun_after):
        drivers.act()
    before = drivers.steps
    create_backup(tmp_path / "a.tar", Settings(home=home), None, lambda _: drivers.act(3))
    assert drivers.steps - before > 2 * STRIDE * JOBS, "meanwhile checkpoints were written and pruned"
    restore(tmp_path / "a.tar", tmp_path / "new")
    plane = plane_of(tmp_path / "new")
    plane.now = lab.now
    assert any(row.state not in ENDED for row in plane.store.jobs(ids).values())
    after = Drivers(plane, rng, deaths=0.0)
    for _ in range(300):
        after.act()
        if all(row.state in ENDED for row in plane.store.jobs(ids).values()):
            break
    check(plane)
    plane.store.close()
