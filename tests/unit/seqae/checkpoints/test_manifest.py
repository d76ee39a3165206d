"""Manifests of plain files: what they hold does not matter here."""

import json
from pathlib import Path

import pytest

from seqae.checkpoints.manifest import FORMAT_VERSION, verify, write
from seqae.errors import CheckpointError, NewerCheckpointError

FILES = ["config.json", "model.safetensors"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a manifest."""
    path = tmp_path / "12"
    path.mkdir()
    for name in FILES:
        (path / name).write_bytes(f"what is in {name}".encode())
    write(path, iteration=12, metrics={"val/mse": 0.25})
    return path


def test_what_is_written_is_read(folder: Path) -> None:
    manifest = verify(folder)
    assert (manifest.iteration, manifest.metrics) == (12, {"val/mse": 0.25})
    assert manifest.format_version == FORMAT_VERSION
    assert sorted(manifest.files) == FILES
    assert [entry.bytes for entry in manifest.files.values()] == [22, 28]


def test_metrics_that_are_not_finite_are_read_back(folder: Path) -> None:
    """JSON has no NaN: written as null, it would make the whole checkpoint unreadable."""
    (folder / "manifest.json").unlink()
    write(folder, iteration=12, metrics={"a": float("nan"), "b": float("inf"), "c": 1.0})
    metrics = verify(folder).metrics
    assert metrics["a"] != metrics["a"]
    assert (metrics["b"], metrics["c"]) == (float("inf"), 1.0)


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "flipped", "empty", "a folder"])
def test_damage_is_found_and_named(folder: Path, name: str, damage: str) -> None:
    file = folder / name
    content = file.read_bytes()
    file.unlink()
    match damage:
        case "truncated":
            file.write_bytes(content[:-1])
        case "longer":
            file.write_bytes(content + b"x")
        case "flipped":
            file.write_bytes(flip(content))
        case "empty":
            file.write_bytes(b"")
        case "a folder":
            file.mkdir()
    with pytest.raises(CheckpointError, match=f"12/{name}"):
        verify(folder)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"\xff\xfe", b'{"format_version": 2'])
def test_a_manifest_that_is_none_is_named(folder: Path, content: bytes | None) -> None:
    (folder / "manifest.json").unlink()
    if content is not None:
        (folder / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        verify(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        verify(tmp_path / "nowhere")


def test_another_format_version_is_refused_and_named(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 99}))
    with pytest.raises(CheckpointError, match=f"version 99, this release reads {FORMAT_VERSION}"):
        verify(folder)


def test_a_newer_release_may_write_more_than_this_one_knows(folder: Path) -> None:
    """It is told from a damaged one, with what to do."""
    file = folder / "manifest.json"
    newer = json.loads(file.read_text()) | {"format_version": FORMAT_VERSION + 1, "of_tomorrow": {}}
    file.write_text(json.dumps(newer))
    with pytest.raises(NewerCheckpointError, match=r"a newer one than seqae 0\.1\.0 wrote it, and can use it"):
        verify(folder)


def test_an_older_format_is_no_newer_one(folder: Path) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": FORMAT_VERSION - 1}))
    with pytest.raises(CheckpointError) as caught:
        verify(folder)
    assert not isinstance(caught.value, NewerCheckpointError)
