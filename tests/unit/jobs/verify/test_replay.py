"""Replays of a tiny run, as a function and as a job's driver in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Outcome, Want
from jobs.driver import DriverContext
from jobs.errors import NoModel
from jobs.specs import TrainSpec, job_spec
from jobs.training.worker import DistributedContext, TrainingTask, train
from jobs.verify.__main__ import run
from jobs.verify.replay import Comparison, Verification, replay
from seqae.data.cache import load_data
from seqae.errors import DataError


@pytest.fixture
def verify(trained: JobFolder, cache_dir: Path) -> Callable[..., Verification]:
    """Replays the run that has ended, 12 iterations with checkpoints at 8, 12 and perhaps 4."""

    def call(**given: Any) -> Verification:
        spec = trained.read_spec()
        assert isinstance(spec, TrainSpec)
        data = load_data(spec.data, spec.model, cache_dir)
        return replay(trained, spec.bare(), data, **{"start": None, "reports": 3, "tolerance": 1e-5} | given)

    return call


def test_a_run_is_reproduced_from_a_checkpoint_and_from_its_start(verify: Callable[..., Verification]) -> None:
    found = verify()
    assert found.agrees
    assert found.start == 8
    assert {one.iteration for one in found.comparisons} == {9, 10, 11}
    assert {one.name for one in found.comparisons} >= {"train/loss", "train/mse", "train/gradient_norm"}
    assert "as logged: 3 reports, iterations 9 to 11, trained again from iteration 8" in found.summary
    whole = verify(start=0, reports=12)
    assert whole.agrees
    assert (whole.start, max(one.iteration for one in whole.comparisons)) == (0, 12)


def test_where_not_enough_was_logged_an_older_checkpoint_is_taken(verify: Callable[..., Verification]) -> None:
    assert verify(reports=5).start < 8
    assert verify(start=9, reports=50).start == 8, "as many as there are"


def test_another_curve_is_told(verify: Callable[..., Verification], trained: JobFolder, tmp_path: Path) -> None:
    found = verify(reports=2)
    changed = Comparison(9, "train/mse", found.comparisons[0].logged * 1.5, found.comparisons[0].logged)
    other = Verification(8, 0.01, (*found.comparisons, changed))
    assert not other.agrees
    assert other.worst is changed
    assert other.summary.startswith("NOT as logged")
    document = json.loads(json.dumps(other.document(), allow_nan=False))
    assert document["agrees"] is False
    assert document["comparisons"][-1]["deviation"] == pytest.approx(1 / 3)


def test_a_number_that_is_none_deviates_by_all() -> None:
    broken = Verification(0, 1.0, (Comparison(1, "train/loss", 1.0, float("nan")),))
    assert not broken.agrees
    assert json.loads(json.dumps(broken.document(), allow_nan=False))["comparisons"][0]["replayed"] is None


def test_nothing_logged_is_an_error(verify: Callable[..., Verification]) -> None:
    with pytest.raises(DataError, match="nothing was logged after iteration 12"):
        verify(start=12)


def _context(folder: JobFolder, cache_dir: Path, **fields: Any) -> DriverContext:
    folder.write_spec(job_spec.validate_python({"kind": "verify", "name": "v", **fields}))
    attempt = folder.attempt(1)
    attempt.path.mkdir(parents=True)
    return DriverContext(folder, attempt, cache_dir, None, None, None)


def test_a_job_writes_its_report(trained: JobFolder, cache_dir: Path) -> None:
    folder = JobFolder(trained.path.parent / "job_verify")
    result = run(_context(folder, cache_dir, job=trained.path.name, tolerance=1e-5))
    assert result.outcome is Outcome.SUCCEEDED
    assert result.metrics["verify/agrees"] == 1.0
    assert (result.metrics["verify/start"], result.metrics["verify/last"]) == (8.0, 11.0)
    artifacts = folder.attempt(1).artifacts
    assert json.loads((artifacts / "verification.json").read_bytes())["agrees"] is True
    assert "job_trained: as logged" in (artifacts / "verification.txt").read_text()


@pytest.mark.parametrize("job", ["job_nowhere", "job_other"])
def test_what_is_no_training_run_is_refused(job: str, trained: JobFolder, cache_dir: Path, tmp_path: Path) -> None:
    other = JobFolder(tmp_path / "jobs" / "job_other")
    other.write_spec(job_spec.validate_python({"kind": "figure", "name": "f", "figure": 4}))
    with pytest.raises(NoModel, match=job):
        run(_context(JobFolder(tmp_path / "jobs" / "job_verify"), cache_dir, job=job))


def test_a_run_that_was_paused_is_reproduced_over_the_pause(
    folder: JobFolder, make_task: Callable[[int], TrainingTask], cache_dir: Path
) -> None:
    train(make_task(1), DistributedContext(), lambda: folder.write_control(Control(attempt=1, want=Want.PAUSE)))
    folder.write_control(Control(attempt=2))
    train(make_task(2), DistributedContext())
    spec = folder.read_spec()
    assert isinstance(spec, TrainSpec)
    found = replay(
        folder,
        spec.bare(),
        load_data(spec.data, spec.model, cache_dir),
        start=0,
        reports=12,
        tolerance=1e-5,
    )
    assert found.agrees, found.summary
