"""Final evaluation of a run's or a search's best checkpoint, the only one on the test split."""

import math
from collections.abc import Callable
from pathlib import Path

from jobs.directory.layout import AttemptFolder
from jobs.directory.records import EvaluationReport, PerImageScores
from seqae.checkpoints import checkpoint
from seqae.checkpoints.manifest import verify
from seqae.data.cache import Dataset
from seqae.evaluation.evaluate import Evaluation, evaluate
from seqae.evaluation.names import modern, with_split
from seqae.evaluation.scores import SCORING_VERSION

__all__ = ["evaluate_on_test", "per_image_scores", "write_report"]


def evaluate_on_test(
    path: Path,
    data: Dataset,
    *,
    device: str = "cpu",
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluates a checkpoint on the test images, with the threshold of the counts that was chosen on `val`.

    Args:
        path: the checkpoint's folder.
        data: of the size and channels of its model.
        device: where to run, as torch names it.
        limit: at most so many test images; all when left out.
        progress: called now and then with the images done and all.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    manifest, config = verify(path), checkpoint.read_config(path)
    return evaluate(
        checkpoint.load_model(path, device),
        data.test,
        steps=config.model.steps,
        limit=len(data.test.images) if limit is None else limit,
        iteration=manifest.iteration,
        epoch=manifest.iteration * config.schedule.batch_size / len(data.train.images),
        active_share=modern(manifest.metrics).get("val/active_share"),
        progress=progress,
    )


def write_report(
    attempt: AttemptFolder, model_name: str, data: Dataset, final: Evaluation, *, chosen_by: str | None = None
) -> None:
    """Writes test.json, by which the control plane decides on the champion.

    Args:
        attempt: that has come to its end.
        model_name: of the registered model that its model becomes a version of.
        data: whose test images were used.
        final: what `evaluate_on_test` gave.
        chosen_by: who chose the model among others, in words; None where metrics did.
    """
    _, channels, height, width = data.test.images.shape
    attempt.write_report(
        EvaluationReport(
            model_name=model_name,
            test_checksum=data.test_checksum,
            height=height,
            width=width,
            channels=channels,
            scores=per_image_scores(final),
            scoring_version=SCORING_VERSION,
            chosen_by=chosen_by,
        )
    )


def per_image_scores(final: Evaluation) -> PerImageScores:
    """An evaluation on test images as a record; JSON has no NaN."""
    metrics = {name: value for name, value in with_split(final.metrics(), "test").items() if math.isfinite(value)}
    indices = [None if math.isnan(value) else float(value) for value in final.per_image.fg_ari]
    return PerImageScores(metrics=metrics, mse=[float(value) for value in final.per_image.mse], fg_ari=indices)
