"""The marker that tells whether two machines have the same folder."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.directory.storage_marker import NAME, ensure_marker, read_marker


def test_a_marker_is_made_once(tmp_path: Path) -> None:
    assert read_marker(tmp_path) is None
    made = ensure_marker(tmp_path)
    assert ensure_marker(tmp_path) == read_marker(tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_folders_have_markers_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert ensure_marker(tmp_path / "a") != ensure_marker(tmp_path / "b")


def test_those_that_make_it_at_once_end_with_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: ensure_marker(tmp_path), range(32)))
    assert found == {read_marker(tmp_path)}


@pytest.mark.parametrize("content", [b"", b"x" * 32, b"\xff" * 32, b"0" * 31, b"0" * 33, b"0" * 1_000_000])
def test_what_is_no_marker_is_none_and_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert read_marker(tmp_path) is None
    with pytest.raises(FileExistsError):
        ensure_marker(tmp_path)
    assert (tmp_path / NAME).read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert read_marker(tmp_path / "none") is None
