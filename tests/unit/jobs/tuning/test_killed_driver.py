"""SIGKILL of a search's driver, a process of its own whose trials are made up, at random moments."""

import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from jobs.directory.layout import JobFolder
from jobs.search.space import Params
from jobs.specs import TuneSpec
from jobs.tuning.study import SearchStudy
from tests.tiny import TINY
from tests.unit.jobs.tuning.fake_driver import drive

TRIALS = 16


def _spec() -> TuneSpec:
    base = TINY | {"schedule": TINY["schedule"] | {"epochs": 9}}
    space = {"alpha_mseot": {"low": 0.1, "high": 10}, "bottleneck": [4, 8]}
    return TuneSpec.model_validate({"kind": "tune", "name": "s", "base": base, "space": space, "trials": TRIALS})


def _curve(params: Params, epoch: float) -> float:
    time.sleep(0.02)
    return abs(float(params["loss.alpha_mseot"]) - 3) / 10 + 1 / (1 + epoch)


def main(folder: Path, attempt: int) -> None:
    """The driver of one attempt."""
    drive(_spec(), JobFolder(folder), _curve, attempt)


@pytest.mark.slow
def test_five_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    folder, random, over = JobFolder(tmp_path / "job"), Random(0), dict[int, float]()
    module = "tests.unit.jobs.tuning.test_killed_driver"
    code = f"import sys, pathlib; from {module} import main; main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
    root = str(Path(__file__).parents[4])
    for attempt in range(1, 7):
        rows = len(folder.attempt(attempt).trials())
        driver = subprocess.Popen([sys.executable, "-c", code, str(folder.path), str(attempt)], cwd=root)
        if attempt == 6:
            assert driver.wait(240) == 0
            break
        while driver.poll() is None and len(folder.attempt(attempt).trials()) == rows:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.5))
        assert driver.poll() is None, "it was killed before its end"
        driver.kill()
        driver.wait()
        over |= {trial: row.epoch for trial, row in folder.trials().items() if row.is_over}
    rows_in_the_end = folder.trials()
    assert list(rows_in_the_end) == list(range(TRIALS))
    assert all(row.is_over for row in rows_in_the_end.values())
    assert {trial: rows_in_the_end[trial].epoch for trial in over} == over
    study = SearchStudy(_spec(), folder)
    assert [trial.number for trial in study.study.get_trials()] == list(range(TRIALS))
    for trial, row in rows_in_the_end.items():
        assert (study.params(trial), study.ended(trial)) == (row.params, (row.state, row.message))
        epochs = [one.metrics["val/epoch"] for attempt in folder.trial(trial).attempts() for one in attempt.metrics()]
        assert epochs == sorted(set(epochs))
