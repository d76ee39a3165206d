"""A home whose job was paused is backed up, restored elsewhere by the command line, and the job goes on to its end.

Training is real, in this process; the cluster and MLflow are fakes. `tests/chaos/test_backup.py` has the real ones.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome, Phase, Result
from jobs.training.worker import DistributedContext, TrainingTask, train
from service.cli.main import app
from service.job_state import State
from service.settings import ReconcilerSettings, Settings
from tests.control_plane import ControlPlane
from tests.tiny import TINY


def plane_of(home: Path) -> ControlPlane:
    return ControlPlane(home, Settings(home=home).database, ReconcilerSettings())


def run_attempt(
    plane: ControlPlane, job_id: str, cache: Path, on_evaluation: Callable[[], None] = lambda: None
) -> Result:
    """Does what the newest attempt's driver does, from its first heartbeat to its end."""
    plane.until(job_id, State.STARTING)
    driver = plane.driver(job_id)
    driver.beat(phase=Phase.STARTING)
    plane.until(job_id, State.RUNNING)
    task = TrainingTask(driver.job_folder.path, driver.job_folder.path, driver.folder.number, cache, None)
    result = train(task, DistributedContext(), on_evaluation)
    driver.folder.write_result(result)
    plane.launcher.finish(driver.name)
    return result


def cli(*words: str | Path) -> None:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output + str(done.exception)


@pytest.mark.timeout(120)
def test_a_paused_job_goes_on_to_its_end_in_another_home(tmp_path: Path) -> None:
    home, cache = tmp_path / "home", tmp_path / "cache"
    (home / "control").mkdir(parents=True)
    old = plane_of(home)
    job_id = old.submit(TINY | {"scaling": {"workers": 1}}, owner="ada")

    def pause() -> None:
        old.service.pause(job_id)
        old.tick()

    assert run_attempt(old, job_id, cache, pause).outcome is Outcome.PAUSED
    old.until(job_id, State.PAUSED)
    cli("backup", tmp_path / "a.tar", "--home", home)
    old.store.close()
    home.rename(tmp_path / "gone")

    cli("restore", tmp_path / "a.tar", "--home", tmp_path / "new")
    plane = plane_of(tmp_path / "new")
    plane.now = old.now
    assert (plane.state(job_id), plane.store.job(job_id).owner) == (State.PAUSED, "ada")
    plane.service.resume(job_id)
    result = run_attempt(plane, job_id, cache)
    assert (result.outcome, result.iterations) == (Outcome.SUCCEEDED, 12)
    plane.until(job_id, State.SUCCEEDED)
    folder = JobFolder(tmp_path / "new" / "jobs" / job_id)
    assert [note.text for note in folder.attempt(2).notes() if note.kind == "resumed"] == ["from iteration 5 of 12"]
    steps = [row.step for row in folder.history() if "train/loss" in row.metrics]
    assert steps == list(range(1, 13)), "the whole curve, each step once"
    model = plane.service.get(job_id).model
    assert model is not None
    assert plane.tracking.resolve(job_id).version == model.version
    plane.store.close()
