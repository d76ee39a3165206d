import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs.directory.layout import JobFolder
from jobs.directory.records import MetricRow, Phase
from jobs.specs import TrainSpec
from jobs.training.metrics_writer import MetricsWriter
from seqae.data.cache import load_data
from seqae.optimization.progress import Progress
from seqae.training import Trainer


def _report(iteration: int, iterations: int = 100, epoch: float = 0.1) -> Progress:
    losses = ("loss", "region", "mseot", "mse", "separation", "location", "presence")
    values = dict.fromkeys((*losses, "learning_rate", "gradient_norm", "images_per_second"), 1.0)
    return Progress(
        iteration=iteration,
        iterations=iterations,
        epoch=epoch,
        epochs=1.0,
        eta_seconds=1.0,
        checkpoint_due=False,
        stopping=False,
        workers=(),
        **values,
    )


def test_the_heartbeat_follows_the_data_the_training_and_the_end(folder: JobFolder) -> None:
    attempt = folder.attempt(1)
    writer = MetricsWriter(folder, attempt, workers=2)
    first = attempt.read_progress()
    assert first is not None
    assert (first.phase, first.iteration, first.workers) == (Phase.DATA, 0, 2)
    # The last of a count is always written, however soon it comes.
    writer.write_data_progress("scenes", 32, 32)
    data = attempt.read_progress()
    assert data is not None
    assert (data.phase, data.iteration, data.iterations) == (Phase.DATA, 32, 32)
    writer.write_progress(_report(32, iterations=32), log_every=10)
    training = attempt.read_progress()
    assert training is not None
    assert (training.loss, training.images_per_second, training.eta_seconds) == (1.0, 1.0, 1.0)
    assert training.last_progress_at == training.time > first.time
    writer.write_finalizing()
    end = attempt.read_progress()
    assert end is not None
    assert (end.phase, end.eta_seconds, end.loss) == (Phase.FINALIZING, 0.0, 1.0)


def test_the_heartbeat_is_written_now_and_then(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = folder.attempt(1)
    writer = MetricsWriter(folder, attempt, workers=1)
    writer.write_progress(_report(1), log_every=10)
    progress = attempt.read_progress()
    assert progress is not None
    assert progress.iteration == 0, "too soon after the first"
    monkeypatch.setattr("jobs.training.metrics_writer._BEAT_INTERVAL", 0.0)
    writer.write_progress(_report(2), log_every=10)
    progress = attempt.read_progress()
    assert progress is not None
    assert progress.iteration == 2


def test_the_final_evaluation_keeps_the_heartbeat(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many test images it takes longer than a stall may last."""
    attempt = folder.attempt(1)
    writer = MetricsWriter(folder, attempt, workers=1)
    writer.write_finalizing()
    before = attempt.read_progress()
    writer.write_test_progress(50, 100)
    assert attempt.read_progress() == before, "too soon after the one before"
    monkeypatch.setattr("jobs.training.metrics_writer._BEAT_INTERVAL", 0.0)
    writer.write_test_progress(100, 100)
    after = attempt.read_progress()
    assert before is not None
    assert after is not None
    assert after.last_progress_at > before.last_progress_at
    assert after.phase is Phase.FINALIZING
    writer.write_test(12, {"test/mse": 0.5})
    assert [(row.step, row.metrics) for row in folder.history()] == [(12, {"test/mse": 0.5})]


def test_film_strips_are_of_val(folder: JobFolder, cache_dir: Path, make_spec: Callable[..., TrainSpec]) -> None:
    """F1: whoever looks at them while the run goes on must not see the test images."""
    spec = make_spec()
    trainer = Trainer(spec, load_data(spec.data, spec.model, cache_dir))
    writer = MetricsWriter(folder, folder.attempt(1), workers=1)
    written = []
    data = trainer.data
    for trainer.data in (data, replace(data, test=data.train), replace(data, val=data.train)):
        writer.write_evaluation(trainer.evaluate(), trainer)
        written.append((folder.attempt(1).frames / "0.png").read_bytes())
    assert written[0] == written[1] != written[2]


def test_long_runs_write_few_rows(folder: JobFolder) -> None:
    metrics_writer = MetricsWriter(folder, folder.attempt(1), workers=1)
    iterations = 100_000
    for iteration in range(10, iterations + 1, 10):
        metrics_writer.write_progress(_report(iteration, iterations), log_every=10)
    steps = [row.step for row in folder.history()]
    assert 1500 <= len(steps) <= 2500
    assert steps[-1] == iterations


def test_a_metric_that_is_not_a_number_is_left_out(folder: JobFolder) -> None:
    metrics_writer = MetricsWriter(folder, folder.attempt(1), workers=1)
    metrics_writer._add_row(1, {"val/fg_ari": float("nan"), "val/mse": 0.5})
    assert [row.metrics for row in folder.history()] == [{"val/mse": 0.5}]


def test_each_row_has_a_line_in_the_log(folder: JobFolder, caplog: pytest.LogCaptureFixture) -> None:
    """F3: a log shows how training goes, by the names that the numbers have everywhere."""
    caplog.set_level(logging.INFO, logger="jobs")
    writer = MetricsWriter(folder, folder.attempt(1), workers=1)
    for iteration in range(1, 31):
        writer.write_progress(_report(iteration, epoch=iteration / 100), log_every=10)
    writer.write_test(30, {"test/mse": 0.25, "test/fg_ari": float("nan"), "test/mse_step_1": 0.5})
    lines = [record.message for record in caplog.records]
    assert [line.partition("  ")[0] for line in lines] == [
        *(f"iteration {iteration}/100" for iteration in (10, 20, 30)),
        "iteration 30",
    ]
    assert lines[0] == ("iteration 10/100  epoch 0.10  train/loss 1.00000  train/mse 1.00000  1 images/s  ETA 1 s")
    assert lines[-1] == "iteration 30  test/mse 0.25000"


def test_lines_of_a_search_name_the_trial(folder: JobFolder, caplog: pytest.LogCaptureFixture) -> None:
    """F3, F7: trials print into one log."""
    caplog.set_level(logging.INFO, logger="jobs")
    trial = folder.trial(3)
    MetricsWriter(trial, trial.attempt(1), workers=1).write_test(30, {"test/mse": 0.25})
    assert [record.message for record in caplog.records] == ["trial 3  iteration 30  test/mse 0.25000"]


def test_a_gpu_is_asked_only_by_those_who_train_on_it(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """G7: asking makes a context on it, which takes hundreds of megabytes."""
    asked: list[str] = []

    def mem_get_info(device: str) -> tuple[int, int]:
        asked.append(device)
        return 1_000_000, 4_000_000

    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for number, device in enumerate(("cpu", "cuda:1"), start=1):
        attempt = folder.attempt(number)
        MetricsWriter(folder, attempt, 1, device).write_progress(_report(10), log_every=10)
    assert asked == ["cuda:1"]
    text = (folder.attempt(2).path / "metrics.jsonl").read_text()
    assert '"system/gpu_0_memory_usage_percentage":75.0' in text


def test_the_curve_is_read_once_however_many_epochs_end(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """And an epoch's mean has the rows of the attempt before, each step once."""
    folder.attempt(1).add_metrics(1, {"train/loss": 6.0, "train/epoch": 0.25})
    folder.attempt(1).add_metrics(2, {"train/loss": 5.0, "train/epoch": 0.5})
    read: list[object] = []
    usual = JobFolder.history

    def history(self: JobFolder, after: Mapping[str, int] | None = None) -> Iterator[MetricRow]:
        read.append(self)
        return usual(self, after)

    monkeypatch.setattr(JobFolder, "history", history)
    writer = MetricsWriter(folder, folder.attempt(2), workers=1)
    monkeypatch.setattr(writer, "_epoch", 0)
    losses = {2: 9.0, 3: 4.0, 4: 3.0, 5: 2.0, 6: 1.0, 8: 0.5, 9: 0.25}
    for step, loss in losses.items():
        writer.write_progress(replace(_report(step, epoch=step / 4), loss=loss), log_every=1)
    assert len(read) == 1
    found = {row.step: row.metrics["epoch/loss"] for row in usual(folder) if "epoch/loss" in row.metrics}
    assert found == {1: pytest.approx((6 + 5 + 4 + 3) / 4), 2: pytest.approx((2 + 1 + 0.5) / 3)}
