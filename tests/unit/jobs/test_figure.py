"""A figure's driver in this process."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Outcome, Phase, Result
from jobs.errors import ErrorClass
from jobs.figure import main
from jobs.specs import job_spec


@pytest.fixture
def draw(trained: JobFolder, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Runs a figure job beside the training run to its end, in this process."""
    for name in ("MLFLOW_TRACKING_URI", "SEQAE_RUN_ID", "SEQAE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEQAE_CACHE_DIR", str(cache_dir))
    before = signal.getsignal(signal.SIGTERM)

    def draw(job_id: str, **fields: Any) -> Result:
        folder = JobFolder(trained.path.parent / job_id)
        folder.write_spec(job_spec.validate_python({"kind": "figure", "name": "f"} | fields))
        folder.write_control(Control(attempt=1))
        assert main(["--job-dir", str(folder.path), "--attempt", "1"]) == 0
        result = folder.attempt(1).read_result()
        assert result is not None
        return result

    yield draw
    signal.signal(signal.SIGTERM, before)


def test_a_figure_of_a_job_is_left_in_its_folder(draw: Callable[..., Result], trained: JobFolder) -> None:
    result = draw("job_seven", figure=7, model="job_trained")
    assert result.outcome is Outcome.SUCCEEDED
    assert result.checkpoint is None, "there is nothing to register"
    assert set(result.metrics) == {"mse_0", "mse_1", "mse_2", "energy_1", "energy_2", "pixels_1", "pixels_2"}
    attempt = JobFolder(trained.path.parent / "job_seven").attempt(1)
    about = json.loads((attempt.artifacts / "figure-7.json").read_bytes())
    assert about["numbers"] == result.metrics
    assert about["caption"]
    with Image.open(attempt.artifacts / "figure-7.png") as kept, Image.open(attempt.frames / "0.png") as shown:
        np.testing.assert_array_equal(np.asarray(kept), np.asarray(shown))
    (row,) = attempt.metrics()
    assert row.metrics == {f"figure/{name}": value for name, value in result.metrics.items()}
    progress = attempt.read_progress()
    assert progress is not None
    assert (progress.phase, progress.iteration, progress.iterations) == (Phase.FINALIZING, 1, 1)


def test_a_record_is_plotted(draw: Callable[..., Result], trained: JobFolder) -> None:
    rows = {row.step: row.metrics["val/mse"] for row in trained.history() if "val/mse" in row.metrics}
    numbers = draw("job_five", figure=5, model="job_trained").metrics
    assert (numbers["first"], numbers["last"]) == (rows[4], rows[12])
    rows = {row.step: row.metrics["train/mse"] for row in trained.history() if "train/mse" in row.metrics}
    assert draw("job_nine", figure=9, model="job_trained").metrics["best"] == min(rows.values())


def test_readers_need_no_model(draw: Callable[..., Result]) -> None:
    assert draw("job_four", figure=4).outcome is Outcome.SUCCEEDED


def test_other_images_can_be_looked_at(draw: Callable[..., Result]) -> None:
    first = draw("job_a", figure=7, model="job_trained").metrics
    data = {"min_digits": 1, "max_digits": 1, "seed": 5}
    assert draw("job_b", figure=7, model="job_trained", data=data).metrics["mse_0"] != first["mse_0"]


def test_what_a_model_can_not_show_fails_the_job_as_its_datas_fault(draw: Callable[..., Result]) -> None:
    result = draw("job_ten", figure=10, model="job_trained")
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.error_class is ErrorClass.DATA
    assert "background" in result.error.message


def test_an_unknown_model_fails_the_job(draw: Callable[..., Result]) -> None:
    result = draw("job_none", figure=7, model="job_nobody")
    assert result.error is not None
    assert "job_nobody" in result.error.message
