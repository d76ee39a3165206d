"""Checkpoint folders: written atomically, read with verification of format and weights.

    config.json         format version and the TrainConfig
    model.safetensors   the weights
    trainer.pt          what training needs to go on: optimizer, schedule, iteration (read with weights_only)
    manifest.json       iteration, metrics, and size and SHA-256 of each file above; written last

A checkpoint is written beside its place and renamed into it, so a reader never sees half of one.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from seqae.checkpoints.manifest import FORMAT_VERSION, Manifest, check_format, write
from seqae.compute.cpu_threads import flush_denormals
from seqae.config import TrainConfig
from seqae.errors import CheckpointError
from seqae.model import SequentialAutoEncoder

__all__ = ["load_model", "load_trainer_state", "read_config", "save"]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(
    path: Path,
    model: SequentialAutoEncoder,
    config: TrainConfig,
    *,
    iteration: int,
    metrics: dict[str, float],
    trainer_state: dict[str, Any] | None = None,
    before_commit: Callable[[], None] | None = None,
) -> Manifest:
    """Writes a checkpoint folder; nothing is left behind when it fails.

    Args:
        path: the folder to make; one that is there already is replaced.
        model: whose weights are stored.
        config: of the run.
        iteration: how many optimizer steps the weights have seen.
        metrics: the newest evaluation, stored for whoever picks the best checkpoint.
        trainer_state: of the optimizer and schedule; left out, the checkpoint can be served but not resumed.
        before_commit: called when all is written, before the rename; what it raises cancels the checkpoint.

    Raises:
        OSError: the disk is full or the folder can't be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        described = {"format_version": FORMAT_VERSION, "config": config.model_dump(mode="json")}
        (draft / "config.json").write_text(json.dumps(described, indent=2))
        weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(weights, draft / "model.safetensors")
        if trainer_state is not None:
            torch.save(trainer_state, draft / "trainer.pt")
        manifest = write(draft, iteration=iteration, metrics=metrics)
        for file in draft.iterdir():
            _sync(file)
        if before_commit is not None:
            before_commit()
        shutil.rmtree(path, ignore_errors=True)
        draft.rename(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return manifest


def read_config(path: Path) -> TrainConfig:
    """The config that a checkpoint was trained with.

    Raises:
        NewerCheckpointError: a newer release wrote it.
        CheckpointError: config.json is missing, damaged, or of another format version.
    """
    file = path / "config.json"
    try:
        described = json.loads(file.read_bytes())
        check_format(file, described["format_version"])
        return TrainConfig.model_validate(described["config"])
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not the config of a checkpoint ({error})") from error


def load_model(path: Path, device: str | torch.device = "cpu") -> SequentialAutoEncoder:
    """The trained model of a checkpoint, in evaluation mode. Nothing is unpickled.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights don't fit the config.
    """
    flush_denormals()
    model = SequentialAutoEncoder(read_config(path).model)
    file = path / "model.safetensors"
    try:
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{file}: can't be loaded ({error})") from error
    return model.to(device).eval()


def load_trainer_state(path: Path) -> dict[str, Any]:
    """What `save` was given as `trainer_state`, on the CPU.

    Raises:
        CheckpointError: the checkpoint holds none, or it is damaged.
    """
    file = path / "trainer.pt"
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{file}: can't be loaded ({error})") from error
    return state
