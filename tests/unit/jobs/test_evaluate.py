import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.directory.layout import JobFolder
from jobs.evaluate import evaluate_checkpoint, main
from jobs.training.worker import DistributedContext, TrainingTask, train
from seqae.errors import CheckpointError


@pytest.fixture
def trained(folder: JobFolder, make_task: Callable[[int], TrainingTask]) -> Path:
    result = train(make_task(1), DistributedContext())
    assert result.checkpoint is not None
    return folder.path / result.checkpoint


def test_it_finds_what_the_end_of_the_training_found(trained: Path, folder: JobFolder, cache_dir: Path) -> None:
    found = evaluate_checkpoint(trained, cache_dir)
    [final] = [row.metrics for row in folder.history() if "test/mse" in row.metrics]
    assert found["metrics"] == pytest.approx(final)
    assert found["iteration"] == int(trained.name)
    assert len(found["evaluation_set"]) == 64


def test_it_prints_and_writes_json(
    trained: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scores.json"
    arguments = ["--checkpoint", str(trained), "--cache-dir", str(cache_dir), "--scenes", "4", "--output", str(output)]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(output.read_bytes())
    assert printed["metrics"]["test/mse"] > 0


def test_a_damaged_checkpoint_is_an_error(trained: Path, cache_dir: Path) -> None:
    (trained / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        evaluate_checkpoint(trained, cache_dir)
