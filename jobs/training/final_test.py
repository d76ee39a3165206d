"""Final evaluation of a run's or a search's best checkpoint, the only one on the test split."""

from collections.abc import Callable
from pathlib import Path

from seqae.checkpoints import checkpoint
from seqae.checkpoints.manifest import verify
from seqae.data.cache import Dataset
from seqae.evaluation.evaluate import Evaluation, evaluate
from seqae.evaluation.names import modern

__all__ = ["evaluate_on_test"]


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
