"""Checkpoints: a folder that is either whole or not there, and that says what it holds.

    config.json         format version and the TrainConfig
    model.safetensors   the weights
    trainer.pt          what training needs to go on: optimizer, schedule, iteration (read with weights_only)
    manifest.json       iteration, metrics, and size and SHA-256 of each file above; written last

A checkpoint is written beside its place and renamed into it, so a reader never sees half of one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from seqae.config import TrainConfig
from seqae.errors import CheckpointError
from seqae.model import SequentialAutoEncoder

__all__ = ["FORMAT_VERSION", "Manifest", "load_model", "load_trainer_state", "read_config", "save", "verify"]

FORMAT_VERSION = 2  # 2: the seeker has three convolutions


class Entry(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a checkpoint says of itself."""

    # JSON has no NaN; as null, one bad metric would make the checkpoint unreadable.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
    format_version: int
    iteration: int
    metrics: dict[str, float]
    files: dict[str, Entry]


def _entry(path: Path) -> Entry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Entry(bytes=path.stat().st_size, sha256=digest)


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
        files = {file.name: _entry(file) for file in sorted(draft.iterdir())}
        manifest = Manifest(format_version=FORMAT_VERSION, iteration=iteration, metrics=metrics, files=files)
        (draft / "manifest.json").write_text(manifest.model_dump_json(indent=2))
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


def verify(path: Path) -> Manifest:
    """Checks that every file of a checkpoint is what its manifest says.

    Raises:
        CheckpointError: naming the first file that is missing, of another size or with another hash.
    """
    try:
        manifest = Manifest.model_validate_json((path / "manifest.json").read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: no readable manifest.json ({error.strerror})") from error
    except ValidationError as error:
        raise CheckpointError(f"{path / 'manifest.json'}: not a manifest") from error
    if manifest.format_version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format version {manifest.format_version}, this release reads {FORMAT_VERSION}")
    for name, entry in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing")
        if file.stat().st_size != entry.bytes:
            raise CheckpointError(f"{file}: {file.stat().st_size} bytes, the manifest says {entry.bytes}")
        if _entry(file).sha256 != entry.sha256:
            raise CheckpointError(f"{file}: its SHA-256 is not the manifest's")
    return manifest


def read_config(path: Path) -> TrainConfig:
    """The config that a checkpoint was trained with.

    Raises:
        CheckpointError: config.json is missing, damaged, or of another format version.
    """
    file = path / "config.json"
    try:
        described = json.loads(file.read_bytes())
        if described["format_version"] != FORMAT_VERSION:
            version = described["format_version"]
            raise CheckpointError(f"{file}: format version {version}, this release reads {FORMAT_VERSION}")
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
