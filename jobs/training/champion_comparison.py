"""Comparison of a finished run's model with the present champion, where the two were tested on different images.

The finishing job has both models, and its data is there: so it evaluates the champion on its own test images, and its
own model on the champion's. The promotion rule (`jobs.promotion`) reads what is written here.
"""

import logging
from pathlib import Path

import torch

from jobs.directory.records import CrossEvaluation, PerImageScores, Result
from jobs.driver import DriverContext
from jobs.errors import NoModel, TrackingUnavailable
from jobs.interfaces import CHAMPION, ModelVersion
from jobs.training.final_test import evaluate_on_test, per_image_scores
from seqae.checkpoints import checkpoint
from seqae.config import ModelConfig
from seqae.data.cache import load_data
from seqae.errors import Error

__all__ = ["compare_with_champion"]

logger = logging.getLogger(__name__)


def compare_with_champion(context: DriverContext, result: Result) -> None:
    """Adds the comparison to test.json, if there is a champion that was tested on other images.

    Nothing that goes wrong here fails the job: what is missing is said in the record's `note`.

    Args:
        context: of the driver whose attempt has ended.
        result: of the attempt.
    """
    report = context.attempt.read_report()
    if report is None or result.checkpoint is None or context.tracking is None:
        return
    try:
        champion = context.tracking.resolve(f"{report.model_name}@{CHAMPION}")
    except NoModel:
        return
    except TrackingUnavailable as error:
        logger.warning("the champion is not known, and is not compared with: %s", error)
        return
    if champion.test_checksum != report.test_checksum:
        own = context.folder.path / result.checkpoint
        torch.set_num_threads(1)  # the workers may have the other cores
        cross = _cross_evaluate(context, own, champion)
        context.attempt.write_report(report.model_copy(update={"against": cross}))


def _cross_evaluate(context: DriverContext, own: Path, champion: ModelVersion) -> CrossEvaluation:
    notes: list[str] = []
    scores: PerImageScores | None = None
    on_its_images: dict[str, dict[str, float]] = {}
    try:
        theirs = checkpoint.read_config(champion.path)
        mine = checkpoint.read_config(own)
        fits = _shape(theirs.model) == _shape(mine.model)
        if fits:
            data = load_data(mine.data, mine.model, context.cache_dir, context.data_dir)
            scores = per_image_scores(evaluate_on_test(champion.path, data))
        else:
            notes.append(f"its images are of {_shape(theirs.model)}, and this model's of {_shape(mine.model)}")
    except (Error, OSError, RuntimeError, ValueError) as error:
        fits = False
        notes.append(f"the champion could not be evaluated on these images: {_first_line(error)}")
    if fits:
        try:
            data = load_data(theirs.data, theirs.model, context.cache_dir, context.data_dir)
            for who, path in (("champion", champion.path), ("challenger", own)):
                on_its_images[who] = per_image_scores(evaluate_on_test(path, data)).metrics
        except (Error, OSError, RuntimeError, ValueError) as error:
            notes.append(f"nothing could be evaluated on the champion's images: {_first_line(error)}")
    for note in notes:
        logger.warning("%s: %s", champion.key.label, note)
    return CrossEvaluation(
        name=champion.name,
        version=champion.version,
        run_id=champion.run_id,
        champion=scores,
        on_its_images=on_its_images,
        note="; ".join(notes) or None,
    )


def _shape(model: ModelConfig) -> str:
    return f"{model.width} x {model.height} x {model.channels}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:500]
