"""Evaluation of a model, as a job's driver in this process and of a single checkpoint."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, NoteKind, Outcome, Phase
from jobs.evaluate import evaluate_checkpoint, main
from jobs.specs import job_spec
from jobs.training.worker import DistributedContext, TrainingTask, train
from seqae.errors import CheckpointError
from seqae.evaluation.scores import SCORING_VERSION


@pytest.fixture
def checkpoint(folder: JobFolder, make_task: Callable[[int], TrainingTask]) -> Path:
    result = train(make_task(1), DistributedContext())
    assert result.checkpoint is not None
    return folder.path / result.checkpoint


def test_it_finds_what_the_end_of_the_training_found(checkpoint: Path, folder: JobFolder, cache_dir: Path) -> None:
    found = evaluate_checkpoint(checkpoint, cache_dir)
    [final] = [row.metrics for row in folder.history() if "test/mse" in row.metrics]
    assert found["metrics"] == pytest.approx(final)
    assert found["iteration"] == int(checkpoint.name)
    assert len(found["evaluation_set"]) == 64
    assert found["scoring_version"] == SCORING_VERSION


def test_it_prints_and_writes_json(
    checkpoint: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scores.json"
    arguments = [
        "--checkpoint",
        str(checkpoint),
        "--cache-dir",
        str(cache_dir),
        "--scenes",
        "4",
        "--output",
        str(output),
    ]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(output.read_bytes())
    assert printed["metrics"]["test/mse"] > 0


def test_a_damaged_checkpoint_is_an_error(checkpoint: Path, cache_dir: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        evaluate_checkpoint(checkpoint, cache_dir)


@pytest.fixture
def evaluate(
    trained: JobFolder, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., JobFolder]]:
    """Runs an evaluation job beside the training run to its end, in this process."""
    for name in ("MLFLOW_TRACKING_URI", "SEQAE_RUN_ID", "SEQAE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEQAE_CACHE_DIR", str(cache_dir))
    before = signal.getsignal(signal.SIGTERM)

    def evaluate(job_id: str, **fields: Any) -> JobFolder:
        folder = JobFolder(trained.path.parent / job_id)
        folder.write_spec(job_spec.validate_python({"kind": "evaluate", "name": "e", "model": "job_trained"} | fields))
        folder.write_control(Control(attempt=1))
        assert main(["--job-dir", str(folder.path), "--attempt", "1"]) == 0
        return folder

    yield evaluate
    signal.signal(signal.SIGTERM, before)


def test_a_job_gives_all_scores_of_a_model_on_its_test_images(
    evaluate: Callable[..., JobFolder], trained: JobFolder
) -> None:
    attempt = evaluate("job_e1").attempt(1)
    result = attempt.read_result()
    assert result is not None
    assert (result.outcome, result.error, result.checkpoint) == (Outcome.SUCCEEDED, None, None)
    [final] = [row.metrics for row in trained.history() if "test/mse" in row.metrics]
    assert result.metrics == pytest.approx(final)
    (row,) = attempt.metrics()
    assert (row.step, row.metrics) == (result.iterations, result.metrics)
    about = json.loads((attempt.artifacts / "evaluation.json").read_bytes())
    assert about["metrics"] == result.metrics
    assert about["model"] == "job_trained"
    assert about["evaluation_set"] == result.evaluation_set
    assert about["scoring_version"] == SCORING_VERSION
    assert np.mean(about["images"]["mse"]) == pytest.approx(result.metrics["test/mse"])
    assert about["images"]["fg_ari"] == [None] * 8, "one digit can't be mixed up with another"
    assert attempt.frame_steps() == [0], "where MLflow's slider stands when its page opens"
    with Image.open(attempt.frames / "0.png") as strips:
        assert strips.height > strips.width / 3, "four film strips below each other"
    data = attempt.read_data()
    assert data is not None
    assert (data.name, data.test, data.test_checksum) == ("mnist_scenes", 8, result.evaluation_set)
    progress = attempt.read_progress()
    assert progress is not None
    assert progress.phase is Phase.FINALIZING


def test_other_images_and_fewer_of_them(evaluate: Callable[..., JobFolder]) -> None:
    others = {"data": {"test_scenes": 5, "train_scenes": 1, "val_scenes": 1, "seed": 4}}
    jobs = [evaluate("job_all"), evaluate("job_three", scenes=3), evaluate("job_others", **others)]
    results = [job.attempt(1).read_result() for job in jobs]
    found = [result for result in results if result is not None]
    assert len({result.metrics["test/mse"] for result in found}) == 3
    assert found[0].evaluation_set == found[1].evaluation_set != found[2].evaluation_set


def test_figures_are_made_too_and_one_that_can_not_be_made_is_noted(evaluate: Callable[..., JobFolder]) -> None:
    attempt = evaluate("job_figures", figures=[10, 7, 7, 5]).attempt(1)
    result = attempt.read_result()
    assert result is not None
    assert result.outcome is Outcome.SUCCEEDED
    names = {path.name for path in attempt.artifacts.iterdir()}
    assert {"figure-7.png", "figure-7.json", "figure-5.png"} <= names
    assert "figure-10.png" not in names
    [note] = [note.text for note in attempt.notes() if note.kind is NoteKind.FIGURE_LEFT_OUT]
    assert note.startswith("figure 10: ")
    shown = {name for row in attempt.metrics() for name in row.metrics}
    assert {"figure-7/mse_0", "figure-5/last"} <= shown


@pytest.mark.parametrize("model", ["job_nobody", "/etc", "champion"])
def test_an_unknown_model_fails_the_job(evaluate: Callable[..., JobFolder], model: str) -> None:
    result = evaluate(f"job_{len(model)}", model=model).attempt(1).read_result()
    assert result is not None
    assert result.error is not None
    assert model in result.error.message
