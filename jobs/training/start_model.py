"""Start from another model: its weights are copied into the job's folder once, so that every attempt begins alike."""

import logging
from pathlib import Path

from jobs.directory.records import NoteKind, StartRecord
from jobs.driver import DriverContext
from jobs.errors import NoModel
from jobs.evaluation.model_sources import find_model
from jobs.specs import TrainSpec
from seqae.checkpoints import checkpoint
from seqae.checkpoints.manifest import verify
from seqae.figures.make import Material

__all__ = ["copy_start_model"]

logger = logging.getLogger(__name__)


def copy_start_model(context: DriverContext, spec: TrainSpec) -> Path | None:
    """The folder with the weights that a run starts from; None where it starts from its seed.

    What a selector such as `champion` means is settled by the first attempt, and recorded in start.json.

    Args:
        context: of the driver.
        spec: of the job.

    Raises:
        NoModel: nothing answers to that name, or it has no checkpoint.
        TrackingUnavailable: the registry does not answer.
        CheckpointError: the model is damaged, or of another format.
    """
    folder = context.folder
    if spec.start_from is None:
        return None
    if folder.read_start() is not None:
        return folder.start
    known = Material(context.cache_dir, context.data_dir)
    source = find_model(spec.start_from, folder.path.parent, context.tracking, known, context.fetch_job)
    path = source.material.checkpoint
    if path is None:
        raise NoModel(f"{source.label} has no checkpoint yet")
    manifest = verify(path)
    # Written anew: without the state of its training, which may be twice as large and is not used.
    model, config = checkpoint.load_model(path), checkpoint.read_config(path)
    checkpoint.save(folder.start, model, config, iteration=manifest.iteration, metrics=manifest.metrics)
    folder.write_start(StartRecord(model=source.label, iteration=manifest.iteration))
    context.attempt.add_note(NoteKind.STARTED_FROM, f"{source.label}, iteration {manifest.iteration}")
    logger.info("starts from %s", source.label)
    return folder.start
