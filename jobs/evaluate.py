"""Evaluates a checkpoint on its own test images: `python -m jobs.evaluate --checkpoint DIR`. Prints JSON."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.directory.files import write_atomically
from jobs.training.final_test import evaluate_on_test
from seqae.checkpoints import checkpoint
from seqae.checkpoints.manifest import verify
from seqae.data.cache import load_data
from seqae.evaluation.names import with_split

__all__ = ["evaluate_checkpoint", "main"]


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
        `iteration`, `dataset` (in words), `evaluation_set` (checksum of the test split) and `metrics`.

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
        "metrics": with_split(found.metrics(), "test"),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates the checkpoint that the arguments name, prints the scores as JSON, and returns the exit status.

    Args:
        argv: the arguments; the process's own when left out.
    """
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


if __name__ == "__main__":
    sys.exit(main())
