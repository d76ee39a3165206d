"""Names of a job folder's files as objects: which are whole, which are shipped in parts, and which stay on the machine.

jobs/<id>/spec.json                                      as the file is named
jobs/<id>/attempts/<n>/metrics.jsonl.parts/<first byte>  a piece of a file that is appended to
jobs/<id>/attempts/<n>/checkpoints/<step>/manifest.json  written last, removed first
jobs/<id>/attempts/<n>/result.json                       written after all else of the attempt
jobs/<id>/claim.json                                     which process runs the newest attempt
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

__all__ = [
    "CHECKPOINT_MANIFEST",
    "CLAIM",
    "CONTROL",
    "DATA_PREFIX",
    "DRIVER_FILES",
    "DRIVER_MARK",
    "NOTES",
    "PART_BYTES",
    "PROGRESS",
    "WORKER_MARK",
    "WORKER_NOTES",
    "FileKind",
    "Part",
    "job_prefix",
    "kind_of",
    "parse_part",
    "part_key",
    "writer_name",
]

CONTROL, CLAIM, PROGRESS = "control.json", "claim.json", "progress.json"
CHECKPOINT_MANIFEST = "manifest.json"
NOTES, WORKER_NOTES = "notes.jsonl", "worker-notes.jsonl"
"""Of an attempt; the latter are rank 0's, where it is not on the driver's machine, which takes them into the former."""
DRIVER_FILES = frozenset({NOTES, "driver.log", "result.json"})
"""What the driver writes of an attempt whose other files rank 0 writes on another machine."""
DRIVER_MARK, WORKER_MARK = ".driver", ".worker"
"""Name a folder on its machine: the driver works in it, or rank 0 does without the driver."""
_WRITER = "writer.json"
DATA_PREFIX = "data"
"""Folder of the built data sets."""

PART_BYTES = 256 * 1024
"""A part that has so many bytes is not written again; the last one of a file is, until it has them."""

_APPENDED = frozenset({"metrics.jsonl", NOTES, WORKER_NOTES, "trials.jsonl", "driver.log", "optuna.journal"})
_PARTS = ".parts"
_PART_DIGITS = 12


def writer_name(attempt: int) -> str:
    """The object that names the folder which has what rank 0 writes in an attempt, relative to the job's prefix."""
    return f"attempts/{attempt}/{_WRITER}"


class FileKind(StrEnum):
    """How a file of a job folder is kept in the storage."""

    WHOLE = "whole"
    """Replaced in one step."""
    APPENDED = "appended"
    """Appended to; kept in parts."""
    CHECKPOINT = "checkpoint"
    """Of a checkpoint's folder, whose manifest comes last."""
    RESULT = "result"
    """Says that an attempt has ended, so it comes after everything else of it."""
    CONTROL = "control"
    """Written under conditions: the control plane's wishes, the driver's claim, the writer's name; never copied."""
    LOCAL = "local"
    """Stays on its machine: locks, drafts, and what Ray keeps for itself."""


def job_prefix(job_id: str) -> str:
    """The folder of a job's objects."""
    return f"jobs/{job_id}"


def kind_of(path: str) -> FileKind:
    """The kind of a file.

    Args:
        path: relative to the job's folder, with slashes.
    """
    parts = path.split("/")
    name = parts[-1]
    if any(part.startswith(".") for part in parts) or name.endswith((".lock", ".tmp")):
        return FileKind.LOCAL
    # Ray's own files lie beside those of the attempt.
    if any(parts[at] == "attempts" and parts[at + 2 : at + 3] in (["train"], ["tune"]) for at in range(len(parts))):
        return FileKind.LOCAL
    if path in (CONTROL, CLAIM) or name == _WRITER:
        return FileKind.CONTROL
    if name in _APPENDED:
        return FileKind.APPENDED
    if "checkpoints" in parts[:-2]:
        return FileKind.CHECKPOINT
    return FileKind.RESULT if name == "result.json" else FileKind.WHOLE


@dataclass(frozen=True)
class Part:
    """A piece of a file that is appended to."""

    path: str
    """Of the file, relative to the job's folder."""
    start: int
    """Byte of the file at which it begins."""


def part_key(path: str, start: int) -> str:
    """The name of a part, relative to the job's prefix; parts sort by it."""
    return f"{path}{_PARTS}/{start:0{_PART_DIGITS}d}"


def parse_part(name: str) -> Part | None:
    """The part that an object is; None where it is none.

    Args:
        name: of the object, relative to the job's prefix.
    """
    folder, slash, digits = name.rpartition("/")
    is_part = slash and folder.endswith(_PARTS) and len(digits) == _PART_DIGITS
    if not is_part or not (digits.isascii() and digits.isdecimal()):
        return None
    path = folder.removesuffix(_PARTS)
    return Part(path, int(digits)) if Path(path).name in _APPENDED else None
