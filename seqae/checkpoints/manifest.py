"""Manifest of a checkpoint folder: size and SHA-256 of each file, and their verification.

Needs no torch: the control plane checks models before it registers them. See `seqae.checkpoints.checkpoint` for what
the files hold.
"""

import hashlib
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from seqae.errors import CheckpointError, NewerCheckpointError

__all__ = ["FORMAT_VERSION", "Entry", "Manifest", "check_format", "verify", "write"]

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


class _Format(BaseModel):
    """What a manifest of any release has."""

    format_version: int


def check_format(path: Path, number: int) -> None:
    """Refuses a checkpoint of another format.

    Args:
        path: of the checkpoint, for the message.
        number: its format version.

    Raises:
        NewerCheckpointError: a newer release wrote it; the text says what to do.
        CheckpointError: an older release wrote it.
    """
    if number == FORMAT_VERSION:
        return
    problem = f"{path}: format version {number}, this release reads {FORMAT_VERSION}"
    if number > FORMAT_VERSION:
        raise NewerCheckpointError(f"{problem}: a newer one than seqae {version('seqae')} wrote it, and can use it")
    raise CheckpointError(problem)


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
        NewerCheckpointError: a newer release wrote it.
        CheckpointError: naming the first file that is missing, of another size or with another hash.
    """
    try:
        content = (path / _NAME).read_bytes()
        check_format(path, _Format.model_validate_json(content).format_version)
        manifest = Manifest.model_validate_json(content)
    except OSError as error:
        raise CheckpointError(f"{path}: no readable {_NAME} ({error.strerror})") from error
    except ValidationError as error:
        raise CheckpointError(f"{path / _NAME}: not a manifest") from error
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
