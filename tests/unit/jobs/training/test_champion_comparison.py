"""A finished run's model against the present champion, in this process."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.backends.fakes import FakeTracking
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, CrossEvaluation, EvaluationReport, Phase, Result
from jobs.driver import DriverContext
from jobs.specs import ScalingConfig, TrainSpec
from jobs.training.champion_comparison import compare_with_champion
from seqae.checkpoints import checkpoint
from seqae.config import ImagesConfig
from seqae.evaluation.scores import SCORING_VERSION
from seqae.model import SequentialAutoEncoder
from tests.reports import make_report

MODEL = "seqae-mnist_scenes"


@pytest.fixture
def ended(trained: JobFolder, tmp_path: Path) -> JobFolder:
    """A run that has come to its end, for this test alone."""
    return JobFolder(Path(shutil.copytree(trained.path, tmp_path / "jobs" / "job_ended")))


@pytest.fixture
def tracking() -> FakeTracking:
    return FakeTracking()


@pytest.fixture
def register(tracking: FakeTracking, ended: JobFolder, tmp_path: Path) -> Callable[..., Path]:
    """Makes an untrained model of the run's kind, with other settings, the champion; returns its files."""

    def register(checksum: str = "other", scoring_version: int = SCORING_VERSION, **changes: dict[str, Any]) -> Path:
        spec = ended.read_spec()
        assert isinstance(spec, TrainSpec)
        fields = spec.bare().model_dump(mode="json")
        config = type(spec.bare()).model_validate(
            {name: part | changes.get(name, {}) if isinstance(part, dict) else part for name, part in fields.items()}
        )
        path = tmp_path / "champion"
        checkpoint.save(path, SequentialAutoEncoder(config.model), config, iteration=1, metrics={})
        run = tracking.create_run("job_champion", "champion", "train", {})
        report = make_report(0.5, model=MODEL, test_checksum=checksum, scoring_version=scoring_version)
        tracking.register("job_champion", run.run_id, MODEL, path, {}, report)
        return path

    return register


@pytest.fixture
def compare(ended: JobFolder, tracking: FakeTracking, cache_dir: Path) -> Callable[[], EvaluationReport]:
    """Compares the run's model; gives its report."""

    def compare() -> EvaluationReport:
        attempt = ended.attempt(1)
        context = DriverContext(ended, attempt, cache_dir, None, tracking, "run-job_ended")
        result = attempt.read_result()
        assert result is not None
        compare_with_champion(context, result, ScalingConfig())
        report = attempt.read_report()
        assert report is not None
        return report

    return compare


def _against(report: EvaluationReport) -> CrossEvaluation:
    assert report.against is not None
    return report.against


def test_the_champion_is_tested_on_these_images_and_this_model_on_the_champions(
    compare: Callable[[], EvaluationReport], register: Callable[..., Path], ended: JobFolder
) -> None:
    """F1: another number of training scenes does not lock the first model in."""
    register(data={"test_scenes": 5, "train_scenes": 50})
    report = compare()
    cross = _against(report)
    assert (cross.name, cross.version, cross.run_id, cross.note) == (MODEL, "1", "run-job_champion", None)
    assert cross.champion is not None
    assert len(cross.champion.mse) == len(report.scores.mse) == 8
    assert cross.champion.metrics["test/empty_mse"] == report.scores.metrics["test/empty_mse"], "the same images"
    assert cross.champion.metrics["test/mse"] != report.scores.metrics["test/mse"]
    theirs = cross.on_its_images
    assert set(theirs) == {"champion", "challenger"}
    assert theirs["champion"]["test/empty_mse"] == theirs["challenger"]["test/empty_mse"]
    assert theirs["champion"]["test/empty_mse"] != report.scores.metrics["test/empty_mse"], "five scenes, not eight"
    progress = ended.attempt(1).read_progress()
    assert progress is not None
    assert progress.phase is Phase.FINALIZING


def test_a_champion_that_was_tested_on_the_same_images_is_not_tested_again(
    compare: Callable[[], EvaluationReport], register: Callable[..., Path], ended: JobFolder
) -> None:
    own = ended.attempt(1).read_report()
    assert own is not None
    register(own.test_checksum)
    assert compare() == own


def test_a_champion_that_another_release_tested_is_tested_again_on_the_same_images(
    compare: Callable[[], EvaluationReport], register: Callable[..., Path], ended: JobFolder
) -> None:
    own = ended.attempt(1).read_report()
    assert own is not None
    assert own.scoring_version == SCORING_VERSION
    register(own.test_checksum, SCORING_VERSION - 1)
    cross = _against(compare())
    assert cross.champion is not None
    assert len(cross.champion.mse) == len(own.scores.mse)
    assert cross.on_its_images == {}, "they are the same images"


def test_without_a_champion_nothing_is_compared(compare: Callable[[], EvaluationReport]) -> None:
    assert compare().against is None


def test_a_registry_that_does_not_answer_does_not_fail_the_job(
    compare: Callable[[], EvaluationReport], register: Callable[..., Path], tracking: FakeTracking
) -> None:
    register()
    tracking.unreachable = True
    assert compare().against is None


def test_a_model_of_another_shape_is_not_compared(
    compare: Callable[[], EvaluationReport], register: Callable[..., Path]
) -> None:
    register(model={"height": 40})
    cross = _against(compare())
    assert (cross.champion, cross.on_its_images) == (None, {})
    assert cross.note is not None
    assert "32 x 40 x 1" in cross.note
    assert "32 x 32 x 1" in cross.note


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "manifest.json"])
def test_a_damaged_champion_is_not_compared(
    compare: Callable[[], EvaluationReport], register: Callable[..., Path], file: str
) -> None:
    (register() / file).write_bytes(b"damaged")
    cross = _against(compare())
    assert cross.champion is None
    assert cross.note is not None
    assert file in cross.note


def test_a_champion_whose_data_is_gone_is_tested_on_these_images_only(
    compare: Callable[[], EvaluationReport], register: Callable[..., Path]
) -> None:
    path = register()
    config = checkpoint.read_config(path)
    gone = config.model_copy(update={"data": ImagesConfig(path="/nowhere/at/all")})
    checkpoint.save(path, SequentialAutoEncoder(config.model), gone, iteration=1, metrics={})
    cross = _against(compare())
    assert cross.champion is not None
    assert cross.on_its_images == {}
    assert cross.note is not None
    assert "/nowhere/at/all" in cross.note


def test_a_fenced_attempt_compares_nothing(
    compare: Callable[[], EvaluationReport], register: Callable[..., Path], ended: JobFolder
) -> None:
    register()
    ended.write_control(Control(attempt=2))
    assert compare().against is None


def test_a_result_without_a_model_is_not_compared(
    ended: JobFolder, tracking: FakeTracking, register: Callable[..., Path], cache_dir: Path
) -> None:
    register()
    attempt = ended.attempt(1)
    before = attempt.read_report()
    result = attempt.read_result()
    assert result is not None
    context = DriverContext(ended, attempt, cache_dir, None, tracking, "run-job_ended")
    compare_with_champion(context, Result(outcome=result.outcome), ScalingConfig())
    assert attempt.read_report() == before
