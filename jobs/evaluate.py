"""Evaluation of a model on test images.

As the driver of an evaluation job: `python -m jobs.evaluate --job-dir DIR --attempt N`. The scores are metrics of the
job, film strips are in frames/, and the figures and evaluation.json, with the scores of each image, in artifacts/.

Of a single checkpoint, without a job: `python -m jobs.evaluate --checkpoint DIR`. Prints JSON.
"""

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jobs.directory.files import write_atomically
from jobs.directory.layout import AttemptFolder
from jobs.directory.records import NoteKind, Outcome, Phase, Progress, Result
from jobs.driver import DriverContext, drive
from jobs.errors import NoModel
from jobs.evaluation.figure_files import write_figure
from jobs.evaluation.film_strips import film_strips
from jobs.evaluation.model_sources import find_model
from jobs.specs import EvaluateSpec
from jobs.training.data_record import write_data_record
from jobs.training.final_test import evaluate_on_test
from seqae.checkpoints import checkpoint
from seqae.checkpoints.manifest import verify
from seqae.data.cache import load_data
from seqae.errors import FigureError, SamplingError
from seqae.evaluation.evaluate import Evaluation
from seqae.evaluation.names import with_split
from seqae.evaluation.scores import SCORING_VERSION
from seqae.figures.make import Material, make_figure
from seqae.reconstructor import Reconstructor

__all__ = ["evaluate_checkpoint", "main"]

logger = logging.getLogger(__name__)


def evaluate_checkpoint(
    path: Path, cache_dir: Path, data_dir: Path | None = None, scenes: int | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Scores of a checkpoint on the test images that its config names.

    Args:
        path: the checkpoint's folder.
        cache_dir: built data sets.
        data_dir: the user's own data.
        scenes: at most so many; all when left out.
        device: where to run.

    Returns:
        `iteration`, `dataset` (in words), `evaluation_set` (checksum of the test split), `scoring_version` (of the rule
        that segments are scored by) and `metrics`.

    Raises:
        CheckpointError: it is damaged.
        DataError: the data is missing or damaged.
    """
    verify(path)  # before the data is built, which may take long
    config = checkpoint.read_config(path)
    data = load_data(config.data, config.model, cache_dir, data_dir)
    found = evaluate_on_test(path, data, device=device, limit=scenes)
    return {
        "iteration": found.iteration,
        "dataset": data.source,
        "evaluation_set": data.test_checksum,
        "scoring_version": SCORING_VERSION,
        "metrics": with_split(found.metrics(), "test"),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the attempt, or evaluates the checkpoint, that the arguments name; returns the exit status.

    Args:
        argv: the arguments; the process's own when left out.
    """
    given = sys.argv[1:] if argv is None else list(argv)
    is_job = any(argument.partition("=")[0] == "--job-dir" for argument in given)
    return drive(_run, given) if is_job else _evaluate_one(given)


def _evaluate_one(argv: Sequence[str]) -> int:
    """Evaluates a checkpoint and prints the scores as JSON."""
    parser = argparse.ArgumentParser(description="Evaluates a checkpoint on the test images of its own config.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--cache-dir", type=Path, required=True, help="folder of built data sets")
    parser.add_argument("--data-dir", type=Path, help="folder of your own data")
    parser.add_argument("--scenes", type=int, help="at most so many test images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    given = parser.parse_args(argv)
    found = evaluate_checkpoint(given.checkpoint, given.cache_dir, given.data_dir, given.scenes, given.device)
    text = json.dumps(found, indent=2)
    if given.output is not None:
        write_atomically(given.output, text)
    print(text)
    return 0


# --- the job


def _run(context: DriverContext) -> Result:
    from seqae.compute.cpu_threads import set_threads

    set_threads(1)
    spec = context.folder.read_spec()
    if not isinstance(spec, EvaluateSpec):
        raise TypeError(f"{context.folder.path}: not an evaluation")
    attempt = context.attempt
    _write_progress(attempt, Phase.DATA, 0, 0)
    source = find_model(
        spec.model,
        context.folder.path.parent,
        context.tracking,
        Material(context.cache_dir, context.data_dir),
        context.fetch_job,
    )
    path = source.material.checkpoint
    if path is None:
        raise NoModel(f"{source.label} has no checkpoint yet")
    logger.info("evaluating %s", source.label)
    verify(path)  # before the data is built, which may take long
    config = checkpoint.read_config(path)
    images = spec.data or config.data
    data = load_data(
        images,
        config.model,
        context.cache_dir,
        context.data_dir,
        lambda _, *done: _write_progress(attempt, Phase.DATA, *done),
    )
    write_data_record(attempt, data, images)
    found = evaluate_on_test(
        path, data, limit=spec.scenes, progress=partial(_write_progress, attempt, Phase.EVALUATING)
    )
    metrics = with_split(found.metrics(), "test")
    attempt.add_metrics(found.iteration, metrics)
    write_atomically(attempt.frames / "0.png", film_strips(Reconstructor.from_checkpoint(path), data.test))
    about = {
        "model": source.label,
        "iteration": found.iteration,
        "dataset": data.source,
        "evaluation_set": data.test_checksum,
        "scoring_version": SCORING_VERSION,
        "metrics": metrics,
        "images": _images(found),
    }
    write_atomically(attempt.artifacts / "evaluation.json", json.dumps(about, indent=2) + "\n")
    _make_figures(attempt, spec, replace(source.material, data=spec.data), found.iteration)
    _write_progress(attempt, Phase.FINALIZING, 1, 1)
    return Result(
        outcome=Outcome.SUCCEEDED, metrics=metrics, iterations=found.iteration, evaluation_set=data.test_checksum
    )


def _make_figures(attempt: AttemptFolder, spec: EvaluateSpec, material: Material, iteration: int) -> None:
    """Makes the figures that the spec names; one that can't be made of this model is noted, and the others follow."""
    for name in dict.fromkeys(spec.figures):
        _write_progress(attempt, Phase.FINALIZING, 0, 1)
        try:
            figure = make_figure(name, material, index=spec.index, seed=spec.seed)
        except (FigureError, SamplingError) as error:
            attempt.add_note(NoteKind.FIGURE_LEFT_OUT, f"figure {name}: {error}")
            continue
        write_figure(attempt, name, figure)
        attempt.add_metrics(iteration, {f"figure-{name}/{key}": value for key, value in figure.numbers.items()})


def _images(found: Evaluation) -> dict[str, list[float | None]]:
    """Scores image by image; JSON has no NaN."""
    scores = {"mse": found.per_image.mse, "fg_ari": found.per_image.fg_ari}
    return {name: [float(value) if math.isfinite(value) else None for value in each] for name, each in scores.items()}


def _write_progress(attempt: AttemptFolder, phase: Phase, done: int, count: int) -> None:
    now = time.time()
    attempt.write_progress(Progress(time=now, last_progress_at=now, phase=phase, iteration=done, iterations=count))


if __name__ == "__main__":
    sys.exit(main())
