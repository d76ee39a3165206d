"""Comparison of a finished run's model with the present champion, where the two were tested differently.

On other images, or by another rule of scoring, which another release had. The finishing job has both models, and its
data is there: so it evaluates the champion on its own test images, and its own model on the champion's. The promotion
rule (`jobs.promotion`) reads what is written here.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from jobs.directory.layout import AttemptFolder
from jobs.directory.records import CrossEvaluation, PerImageScores, Result
from jobs.driver import DriverContext
from jobs.errors import NoModel, NoRun, TrackingRefused, TrackingUnavailable
from jobs.interfaces import CHAMPION, ModelVersion
from jobs.specs import ScalingConfig
from jobs.storage.data_sets import load_data
from jobs.training.final_test import evaluate_on_test, per_image_scores
from seqae.checkpoints import checkpoint
from seqae.compute.cpu_threads import set_threads
from seqae.config import DataConfig, ImagesConfig, ModelConfig, TrainConfig
from seqae.errors import Error

__all__ = ["compare_with_champion"]

logger = logging.getLogger(__name__)

_BEAT_INTERVAL = 1.0

_FAILURES = (Error, OSError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)
"""What another release's, a damaged or a foreign model and its data can make fail."""


def compare_with_champion(context: DriverContext, result: Result, scaling: ScalingConfig) -> None:
    """Adds the comparison to test.json, if there is a champion that was tested on other images or by another rule.

    Nothing that goes wrong here fails the job: what is missing is said in the record's `note`.

    Args:
        context: of the driver whose attempt has ended.
        result: of the attempt.
        scaling: of the workers that have ended; their cores are free now.
    """
    try:
        report = context.attempt.read_report()
        if report is None or result.checkpoint is None or context.tracking is None or context.is_fenced():
            return
        champion = context.tracking.resolve(f"{report.model_name}@{CHAMPION}")
        tested = (champion.test_checksum, champion.scoring_version)
        if champion.run_id == context.run_id or tested == (report.test_checksum, report.scoring_version):
            return
        set_threads(max(1, int(scaling.cpus_per_worker)))
        same_images = champion.test_checksum == report.test_checksum
        cross = _cross_evaluate(context, context.folder.path / result.checkpoint, champion, same_images=same_images)
        if not context.is_fenced():
            context.attempt.write_report(report.model_copy(update={"against": cross}))
    except NoModel:
        return
    except (TrackingUnavailable, TrackingRefused, NoRun) as error:
        logger.warning("the champion is not known, and is not compared with: %s", error)
    except _FAILURES:
        logger.exception("the model is not compared with the champion")


def _cross_evaluate(context: DriverContext, own: Path, champion: ModelVersion, *, same_images: bool) -> CrossEvaluation:
    beat = _beater(context.attempt)
    notes: list[str] = []
    scores: PerImageScores | None = None
    on_its_images: dict[str, dict[str, float]] = {}
    fits = False
    try:
        theirs, mine = checkpoint.read_config(champion.path), checkpoint.read_config(own)
        fits = _shape(theirs.model) == _shape(mine.model)
        if fits:
            data = load_data(mine.data, mine.model, context.cache_dir, context.data_dir, lambda *_: beat())
            scores = per_image_scores(evaluate_on_test(champion.path, data, progress=lambda *_: beat()))
        else:
            notes.append(f"its images are of {_shape(theirs.model)}, and this model's of {_shape(mine.model)}")
    except _FAILURES as error:
        notes.append(f"the champion could not be evaluated on these images: {_first_line(error)}")
    if fits and not same_images:
        try:
            on_its_images = _on_its_images(context, theirs, own, champion, beat)
        except _FAILURES as error:
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


def _on_its_images(
    context: DriverContext, theirs: TrainConfig, own: Path, champion: ModelVersion, beat: Callable[[], None]
) -> dict[str, dict[str, float]]:
    """Metrics of both models on the champion's test images."""
    data = load_data(_test_only(theirs.data), theirs.model, context.cache_dir, context.data_dir, lambda *_: beat())
    return {
        who: per_image_scores(evaluate_on_test(path, data, progress=lambda *_: beat())).metrics
        for who, path in (("champion", champion.path), ("challenger", own))
    }


def _test_only(data: DataConfig) -> DataConfig:
    """The same test images with as few others as can be: scenes are made one by one, and the others are not needed."""
    if isinstance(data, ImagesConfig):
        return data
    return data.model_copy(update={"train_scenes": 1, "val_scenes": 1})


def _beater(attempt: AttemptFolder) -> Callable[[], None]:
    """What tells, once in a while, that the work moves on."""
    beaten_at = 0.0

    def beat() -> None:
        nonlocal beaten_at
        if time.monotonic() - beaten_at < _BEAT_INTERVAL:
            return
        beaten_at = time.monotonic()
        progress = attempt.read_progress()
        if progress is not None:
            progress.time = progress.last_progress_at = time.time()
            attempt.write_progress(progress)

    return beat


def _shape(model: ModelConfig) -> str:
    return f"{model.width} x {model.height} x {model.channels}"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:500]
