"""Node-local copies in a folder in which everybody may write."""

import os
from pathlib import Path

import pytest

from jobs.errors import FolderError
from jobs.storage.copying.copies import make_private


def _copy(root: Path) -> Path:
    path = root / "node" / "jobs" / "job_1-1" / "job_1"
    path.mkdir(parents=True)
    (root / "node").chmod(0o755)
    return path


def test_other_users_are_kept_out(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    make_private(_copy(tmp_path), 1)
    assert (tmp_path / "node").stat().st_mode & 0o777 == 0o700


def test_a_folder_of_ones_own_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private(_copy(tmp_path), 1)
    assert (tmp_path / "node").stat().st_mode & 0o777 == 0o755


def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o1777)
    path = _copy(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(FolderError, match="SEQAE_NODE_DIR"):
        make_private(path, 1)


def test_a_link_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    _copy(elsewhere)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "node").symlink_to(elsewhere / "node")
    with pytest.raises(FolderError):
        make_private(shared / "node" / "jobs" / "job_1-1" / "job_1", 1)
