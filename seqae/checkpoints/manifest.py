"""Manifest of a checkpoint folder: size and SHA-256 of each file, and their verification.

Needs no torch: the control plane checks models before it registers them. See `seqae.checkpoints.checkpoint` for what
the files hold.
"""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from seqae.errors import CheckpointError

__all__ = ["FORMAT_VERSION", "Entry", "Manifest", "verify", "write"]

FORMAT_VERSION = 4
"""2: the seeker has three convolutions; 3: it knows sizes and its place; 4: codes are read off channels last."""

_NAME = "manifest.json"


class Entry(BaseModel):
    """Size in bytes and SHA-256 of one file of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """The content of manifest.json."""

    # JSON has no NaN; as null, one bad metric would make the checkpoint unreadable.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
    format_version: int
    iteration: int
    metrics: dict[str, float]
    files: dict[str, Entry]


def write(folder: Path, *, iteration: int, metrics: dict[str, float]) -> Manifest:
    """Writes the manifest of a folder's files, which must all be there already.

    Raises:
        OSError: a file can't be read, or the manifest can't be written.
    """
    files = {file.name: _entry(file) for file in sorted(folder.iterdir())}
    manifest = Manifest(format_version=FORMAT_VERSION, iteration=iteration, metrics=metrics, files=files)
    (folder / _NAME).write_text(manifest.model_dump_json(indent=2))
    return manifest


def verify(path: Path) -> Manifest:
    """Checks that every file of a checkpoint is what its manifest says.

    Raises:
        CheckpointError: naming the first file that is missing, of another size or with another hash.
    """
    try:
        manifest = Manifest.model_validate_json((path / _NAME).read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: no readable {_NAME} ({error.strerror})") from error
    except ValidationError as error:
        raise CheckpointError(f"{path / _NAME}: not a manifest") from error
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


def _entry(path: Path) -> Entry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Entry(bytes=path.stat().st_size, sha256=digest)
