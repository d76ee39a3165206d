"""Real training of a tiny model in this process: stopping, resuming, fencing, and what is left in the folder."""

import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, NoteKind, Outcome, Phase, Result, Want
from jobs.errors import FencedError, PreemptedError
from jobs.specs import TrainSpec
from jobs.training import worker
from jobs.training.checkpoints import CheckpointManager
from jobs.training.final_test import evaluate_on_test
from jobs.training.worker import DistributedContext, TrainingTask, train
from seqae.checkpoints.manifest import verify
from seqae.data.cache import load_data
from seqae.data.scenes import Scenes
from seqae.errors import DataError, DivergedError
from seqae.evaluation.evaluate import Evaluation, evaluate
from seqae.evaluation.names import of_split
from seqae.model import SequentialAutoEncoder
from seqae.training import Trainer

MakeTask = Callable[[int], TrainingTask]
MakeSpec = Callable[..., TrainSpec]


def _control_after(folder: JobFolder, control: Control, evaluations: int = 1) -> Callable[[], None]:
    """Sets what is wanted after so many evaluations."""
    seen = 0

    def on_evaluation() -> None:
        nonlocal seen
        seen += 1
        if seen == evaluations:
            folder.write_control(control)

    return on_evaluation


def _losses(folder: JobFolder) -> dict[int, float]:
    rows = [row for row in folder.history() if "train/loss" in row.metrics]
    assert len({row.step for row in rows}) == len(rows)
    return {row.step: row.metrics["train/loss"] for row in rows}


def test_a_run_leaves_everything_behind(folder: JobFolder, make_task: MakeTask) -> None:
    result = train(make_task(1), DistributedContext())
    attempt = folder.attempt(1)
    assert result.outcome is Outcome.SUCCEEDED
    assert result.iterations == 12
    assert result.checkpoint is not None
    manifest = verify(folder.path / result.checkpoint)
    assert of_split(result.metrics, "val") == of_split(manifest.metrics, "val")
    bare = {"mse", "empty_mse", "mse_step_0", "mse_step_2", "fg_ari", "active_share", "objective"}
    assert set(of_split(manifest.metrics, "val")) >= bare
    assert of_split(manifest.metrics, "test") == {}, "nothing is chosen on the test images"
    assert set(of_split(result.metrics, "test")) >= bare
    assert result.evaluation_set is not None
    assert len(result.evaluation_set) == 64
    assert list(_losses(folder)) == list(range(1, 13))
    rows = list(folder.history())
    assert [row.step for row in rows if "val/mse" in row.metrics] == [4, 8, 12]
    assert [row.step for row in rows if "test/mse" in row.metrics] == [manifest.iteration], "once, at the end"
    assert [row.step for row in rows if "epoch/loss" in row.metrics] == [1, 2, 3]
    assert all(row.metrics["system/process_memory_megabytes"] > 0 for row in rows if "train/loss" in row.metrics)
    assert attempt.frame_steps() == [0, 4, 8, 12], "where MLflow's slider stands when its page opens, too"
    with Image.open(attempt.frames / "12.png") as film:
        assert film.height > 4 * 32
    assert "digits" in next(note.text for note in attempt.notes() if note.kind == "data")
    progress = attempt.read_progress()
    assert progress is not None
    assert (progress.phase, progress.iteration, progress.iterations) == (Phase.FINALIZING, 12, 12)
    assert (progress.epoch, progress.epochs, progress.workers) == (3.0, 3.0, 1)
    assert progress.val_mse == next(
        row.metrics["val/mse"] for row in rows if row.step == 12 and "val/mse" in row.metrics
    )


def test_denormal_numbers_are_zeros_before_a_worker_computes(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []

    def load(*_: object) -> None:
        found.append(float(torch.full((1,), 1e-37) * 1e-2) == 0)
        raise DataError("no images")

    monkeypatch.setattr(worker, "load_data", load)

    def work() -> None:
        torch.set_flush_denormal(False)  # as a new process has it; a thread takes it over from the one that starts it
        with pytest.raises(DataError):
            train(make_task(1), DistributedContext())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]


def test_the_model_to_register_is_the_best_and_not_the_newest(folder: JobFolder, make_task: MakeTask) -> None:
    # The first record of a step counts: for the selection, step 4 is the best.
    for step, error in ((4, 1e-6), (8, 1.0), (12, 0.5)):
        folder.attempt(0).add_metrics(step, {"val/objective": error})
    result = train(make_task(1), DistributedContext())
    assert result.checkpoint == "attempts/1/checkpoints/4"
    manifest = verify(folder.attempt(1).checkpoints / "4")
    assert manifest.iteration == 4
    assert of_split(result.metrics, "val") == of_split(manifest.metrics, "val")
    assert result.iterations == 12


def test_the_test_images_are_looked_at_once_and_with_the_threshold_of_val(
    folder: JobFolder, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1: checkpoints and the count's threshold were chosen on the test scenes that were then reported."""
    seen: list[tuple[int, float | None]] = []
    real = evaluate

    def spy(model: SequentialAutoEncoder, scenes: Scenes, **given: Any) -> Evaluation:
        seen.append((len(scenes.images), given["active_share"]))
        return real(model, scenes, **given)

    monkeypatch.setattr("jobs.training.final_test.evaluate", spy)
    result = train(make_task(1), DistributedContext())
    assert seen == [(8, result.metrics["val/active_share"])]
    assert result.metrics["test/active_share"] == result.metrics["val/active_share"]


def test_all_test_images_are_used_however_few_are_looked_at_while_training(
    folder: JobFolder, make_task: MakeTask, make_spec: MakeSpec
) -> None:
    fields = make_spec().model_dump(mode="json")
    fields["schedule"]["evaluate_scenes"] = 2
    folder.write_spec(TrainSpec.model_validate(fields))
    task = make_task(1)
    result = train(task, DistributedContext())
    assert result.checkpoint is not None
    spec = folder.read_spec()
    assert isinstance(spec, TrainSpec)
    data = load_data(spec.data, spec.model, task.cache_dir)
    assert result.evaluation_set == data.test_checksum
    whole = evaluate_on_test(folder.path / result.checkpoint, data)
    assert result.metrics["test/mse"] == pytest.approx(whole.mse)


def test_a_trial_of_a_search_is_not_tested(folder: JobFolder, make_task: MakeTask) -> None:
    """Only the winner is: choosing among tests would be choosing on them."""
    result = train(replace(make_task(1), tests=False), DistributedContext())
    assert result.outcome is Outcome.SUCCEEDED
    assert of_split(result.metrics, "val")
    assert not of_split(result.metrics, "test")


def test_a_run_that_an_older_release_trained_has_the_same_model(folder: JobFolder, make_task: MakeTask) -> None:
    """Its rows say nothing of `val` and of the objective."""
    first = train(make_task(1), DistributedContext())
    path = folder.attempt(1).path / "metrics.jsonl"
    rows = [row for row in map(json.loads, path.read_text().splitlines()) if "test/mse" not in row["metrics"]]
    for row in rows:
        row["metrics"].pop("val/objective", None)
    path.write_text("".join(json.dumps(row).replace('"val/', '"test/') + "\n" for row in rows))
    folder.write_control(Control(attempt=2))
    second = train(make_task(2), DistributedContext())
    assert second.checkpoint == first.checkpoint
    assert second.metrics["test/mse"] == pytest.approx(first.metrics["test/mse"])


def test_a_run_without_an_evaluated_checkpoint_has_its_newest(folder: JobFolder, make_task: MakeTask) -> None:
    train(make_task(1), DistributedContext())
    (folder.attempt(1).path / "metrics.jsonl").unlink()
    folder.write_control(Control(attempt=2))
    result = train(make_task(2), DistributedContext())
    assert result.checkpoint == "attempts/1/checkpoints/12"
    assert result.metrics["test/mse"] > 0


def test_the_epochs_loss_is_the_mean_of_its_iterations(folder: JobFolder, make_task: MakeTask) -> None:
    train(make_task(1), DistributedContext())
    losses = _losses(folder)
    epochs = {row.step: row.metrics["epoch/loss"] for row in folder.history() if "epoch/loss" in row.metrics}
    for epoch in (1, 2, 3):
        own = [losses[step] for step in range(4 * epoch - 3, 4 * epoch + 1)]
        assert epochs[epoch] == pytest.approx(sum(own) / 4)


def test_a_run_that_was_paused_gives_what_an_unbroken_one_gives(
    folder: JobFolder, make_task: MakeTask, tmp_path: Path, make_spec: MakeSpec
) -> None:
    paused = train(make_task(1), DistributedContext(), _control_after(folder, Control(attempt=1, want=Want.PAUSE)))
    assert paused.outcome is Outcome.PAUSED
    # One report after the pause was wanted, at the next iteration.
    assert paused.iterations == 5
    assert paused.checkpoint == "attempts/1/checkpoints/5"
    folder.write_control(Control(attempt=2))
    resumed = train(make_task(2), DistributedContext())
    notes = folder.attempt(2).notes()
    assert [note.text for note in notes if note.kind == "resumed"] == ["from iteration 5 of 12"]

    other = JobFolder(tmp_path / "unbroken")
    other.write_spec(make_spec())
    task = make_task(1)
    unbroken = train(TrainingTask(other.path, other.path, 1, task.cache_dir, None), DistributedContext())
    assert resumed.metrics == pytest.approx(unbroken.metrics, rel=1e-5)
    assert _losses(folder) == pytest.approx(_losses(other), rel=1e-5)


def test_a_cancelled_run_stops_at_the_next_report(folder: JobFolder, make_task: MakeTask) -> None:
    result = train(make_task(1), DistributedContext(), _control_after(folder, Control(attempt=1, want=Want.CANCEL)))
    assert (result.outcome, result.iterations) == (Outcome.CANCELLED, 5)
    assert result.checkpoint == "attempts/1/checkpoints/4"


def test_a_stale_attempt_stops_and_commits_nothing(folder: JobFolder, make_task: MakeTask) -> None:
    def overtake() -> None:
        folder.write_control(Control(attempt=2))

    with pytest.raises(FencedError, match="attempt 1"):
        train(make_task(1), DistributedContext(), overtake)
    assert folder.attempt(1).checkpoint_steps() == [4]
    assert list(_losses(folder)) == [1, 2, 3, 4], "nothing is recorded after the fence"
    with pytest.raises(FencedError):
        train(make_task(1), DistributedContext())


def test_a_fence_that_falls_while_a_checkpoint_is_written_leaves_no_draft(
    folder: JobFolder, cache_dir: Path, make_spec: MakeSpec
) -> None:
    spec = make_spec()
    trainer = Trainer(spec, load_data(spec.data, spec.model, cache_dir))
    folder.write_control(Control(attempt=2))
    with pytest.raises(FencedError):
        CheckpointManager(folder, folder.attempt(1)).save(trainer)
    assert folder.checkpoint_paths() == []
    assert list(folder.attempt(1).checkpoints.iterdir()) == []


def test_a_damaged_checkpoint_is_skipped_and_noted(folder: JobFolder, make_task: MakeTask) -> None:
    train(
        make_task(1), DistributedContext(), _control_after(folder, Control(attempt=1, want=Want.PAUSE), evaluations=2)
    )
    newest, before = folder.checkpoint_paths()[:2]
    assert (newest.name, before.name) == ("9", "8")
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    folder.write_control(Control(attempt=2))
    result = train(make_task(2), DistributedContext())
    assert result.outcome is Outcome.SUCCEEDED
    notes = {note.kind: note.text for note in folder.attempt(2).notes()}
    assert "model.safetensors" in notes[NoteKind.CHECKPOINT_DAMAGED]
    assert notes[NoteKind.RESUMED] == "from iteration 8 of 12"
    assert list(_losses(folder)) == list(range(1, 13))


def test_a_manifest_with_a_wrong_hash_is_skipped(folder: JobFolder, make_task: MakeTask) -> None:
    train(make_task(1), DistributedContext(), _control_after(folder, Control(attempt=1, want=Want.PAUSE)))
    manifest = folder.checkpoint_paths()[0] / "manifest.json"
    content = json.loads(manifest.read_bytes())
    content["files"]["model.safetensors"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(content))
    assert CheckpointManager(folder, folder.attempt(1)).newest() == folder.attempt(1).checkpoints / "4"


def test_retention_keeps_the_newest_two_and_the_best(
    folder: JobFolder, make_task: MakeTask, make_spec: MakeSpec
) -> None:
    folder.write_spec(make_spec(checkpoint_every=1))
    train(make_task(1), DistributedContext())
    name = "val/objective"
    scores = {row.step: row.metrics[name] for row in folder.history() if name in row.metrics}
    best = min(scores, key=lambda step: scores[step])
    assert set(folder.attempt(1).checkpoint_steps()) == {11, 12, best}


def test_a_finished_run_that_is_run_again_gives_the_same_result(folder: JobFolder, make_task: MakeTask) -> None:
    """The driver may die between the last checkpoint and the result."""
    first = train(make_task(1), DistributedContext())
    folder.write_control(Control(attempt=2))
    second = train(make_task(2), DistributedContext())
    assert second == first
    assert folder.attempt(2).checkpoint_steps() == []


def test_half_written_checkpoints_of_killed_processes_are_swept(folder: JobFolder, make_task: MakeTask) -> None:
    draft = folder.attempt(1).checkpoints / ".8.4711.tmp"
    draft.mkdir(parents=True)
    (draft / "model.safetensors").write_bytes(b"half")
    train(make_task(1), DistributedContext())
    assert not draft.exists()


def test_a_loss_that_is_not_finite_ends_the_run(
    make_task: MakeTask, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    # More than a float32 can hold, and than a spec may ask for.
    loss = spec.loss.model_copy(update={"alpha_region": 1e300})
    monkeypatch.setattr(JobFolder, "read_spec", lambda _: spec.model_copy(update={"loss": loss}))
    with pytest.raises(DivergedError, match="iteration"):
        train(replace(make_task(1), heals_divergence=False), DistributedContext())


def _risen_and_spoiled(folder: JobFolder, make_task: MakeTask) -> None:
    """Trains up to iteration 5, then makes it look as if the loss had risen until 8, where no weight is a number."""
    train(make_task(1), DistributedContext(), _control_after(folder, Control(attempt=1, want=Want.PAUSE)))
    spec = folder.read_spec()
    assert isinstance(spec, TrainSpec)
    trainer = Trainer(spec, load_data(spec.data, spec.model, make_task(1).cache_dir))
    trainer.load(folder.attempt(1).checkpoints / "5")
    trainer.iteration = 8
    for parameter in trainer.model.parameters():
        parameter.data.fill_(math.nan)
    trainer.save(folder.attempt(1).checkpoints / "8")
    for step in (6, 7, 8):
        folder.attempt(1).add_metrics(step, {"train/loss": 100.0, "train/epoch": step / 4})
    folder.write_control(Control(attempt=2))


def test_a_run_that_has_diverged_goes_back_before_the_rise_with_half_the_learning_rate(
    folder: JobFolder, make_task: MakeTask
) -> None:
    _risen_and_spoiled(folder, make_task)
    result = train(make_task(2), DistributedContext())
    assert (result.outcome, result.iterations) == (Outcome.SUCCEEDED, 12)
    (note,) = (note for note in folder.attempt(2).notes() if note.kind is NoteKind.DIVERGED)
    assert "at iteration 9" in note.text
    assert "from iteration 5 with half the learning rate, 1 of at most 2 times" in note.text
    rates = {
        row.step: row.metrics["train/learning_rate"] for row in folder.history() if "train/learning_rate" in row.metrics
    }
    assert rates[10] < 0.6 * rates[5], "by the cycle alone it would be 0.7"
    assert not (folder.attempt(1).checkpoints / "8").exists()
    # The next attempt trains with that rate, too.
    spec = folder.read_spec()
    assert isinstance(spec, TrainSpec)
    trainer = Trainer(spec, load_data(spec.data, spec.model, make_task(1).cache_dir))
    trainer.load(folder.checkpoint_paths()[0])
    assert trainer.halvings == 1


def test_a_trial_of_a_search_keeps_its_learning_rate(folder: JobFolder, make_task: MakeTask) -> None:
    _risen_and_spoiled(folder, make_task)
    with pytest.raises(DivergedError, match="at iteration 9"):
        train(replace(make_task(2), heals_divergence=False), DistributedContext())


def test_a_run_that_diverges_again_and_again_fails(folder: JobFolder, make_task: MakeTask, make_spec: MakeSpec) -> None:
    folder.write_spec(make_spec(learning_rate=10.0, grad_clip=1e6, warmup=0.0))
    with pytest.raises(DivergedError, match="though it went back and halved the learning rate 2 times"):
        train(make_task(1), DistributedContext())
    assert [note.kind for note in folder.attempt(1).notes()].count(NoteKind.DIVERGED) == 2


def test_a_worker_that_must_go_leaves_a_checkpoint_of_its_last_iteration(
    folder: JobFolder, make_task: MakeTask, make_spec: MakeSpec
) -> None:
    folder.write_spec(make_spec(epochs=1000))
    with pytest.raises(PreemptedError, match=r"left at iteration \d+ with a checkpoint: SIGTERM") as caught:
        train(make_task(1), DistributedContext(), notices=[lambda: None, lambda: "SIGTERM"])
    step = int(str(caught.value).split()[3])
    assert folder.attempt(1).checkpoint_steps()[-1] == step
    progress = folder.attempt(1).read_progress()
    assert progress is not None
    assert progress.iteration <= step


def test_missing_data_is_the_users_error(folder: JobFolder, make_task: MakeTask, make_spec: MakeSpec) -> None:
    fields = folder.read_spec().model_dump(mode="json")
    fields["data"] = {"kind": "images", "path": "/nowhere"}
    folder.write_spec(TrainSpec.model_validate(fields))
    with pytest.raises(DataError):
        train(make_task(1), DistributedContext())


def test_a_search_is_not_trained(folder: JobFolder, make_task: MakeTask, tune_spec: object) -> None:
    folder.write_spec(tune_spec)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not a training run"):
        train(make_task(1), DistributedContext())


def test_results_are_comparable_by_their_scenes(folder: JobFolder, make_task: MakeTask, make_spec: MakeSpec) -> None:
    def evaluation_set(seed: int, attempt: int, train_scenes: int = 32) -> str | None:
        fields = make_spec(epochs=0.25).model_dump(mode="json")
        fields["data"] |= {"seed": seed, "train_scenes": train_scenes}
        other = JobFolder(folder.path.parent / f"other-{attempt}")
        other.write_spec(TrainSpec.model_validate(fields))
        result: Result = train(
            TrainingTask(other.path, other.path, 1, make_task(1).cache_dir, None), DistributedContext()
        )
        return result.evaluation_set

    assert evaluation_set(0, 1) == evaluation_set(0, 2) != evaluation_set(1, 3)
    assert evaluation_set(0, 4, train_scenes=24) == evaluation_set(0, 1), "F1: only the test scenes matter"
