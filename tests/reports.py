"""Evaluation reports of models that nobody trained."""

from collections.abc import Sequence

from jobs.directory.records import EvaluationReport, PerImageScores
from seqae.evaluation.scores import SCORING_VERSION

__all__ = ["make_report", "make_scores"]

_EMPTY_MSE = 1.0


def make_scores(mse: float | Sequence[float], fg_ari: float | None = None, images: int = 8) -> PerImageScores:
    """Scores of one model: a number for all images, or one for each."""
    errors = [mse] * images if isinstance(mse, float) else list(mse)
    metrics = {"test/mse": sum(errors) / len(errors), "test/empty_mse": _EMPTY_MSE}
    if fg_ari is not None:
        metrics["test/fg_ari"] = fg_ari
    return PerImageScores(metrics=metrics, mse=errors, fg_ari=[fg_ari] * len(errors))


def make_report(
    mse: float | Sequence[float],
    fg_ari: float | None = None,
    model: str = "seqae-mnist_scenes",
    test_checksum: str = "scenes",
    scoring_version: int = SCORING_VERSION,
) -> EvaluationReport:
    """The report of a run that ends with such a model."""
    scores = make_scores(mse, fg_ari)
    return EvaluationReport(
        model_name=model,
        test_checksum=test_checksum,
        height=64,
        width=64,
        channels=1,
        scores=scores,
        scoring_version=scoring_version,
    )
