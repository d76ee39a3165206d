"""Which folder is the home: named, found upwards as git does, or the user's own."""

from pathlib import Path

import pytest

from seqae.errors import Error
from service.cli.home import find_home


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with folders in it, in which this process is, and a user with a folder of their own."""
    (tmp_path / "project" / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "a" / "b")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)


def test_a_project_has_one_home_from_any_of_its_folders(tmp_path: Path) -> None:
    """F11: it does not depend on the current folder."""
    (tmp_path / "project" / ".seqae").mkdir()
    assert find_home() == tmp_path / "project" / ".seqae"
    (tmp_path / "project" / "a" / "b" / ".seqae").mkdir()
    assert find_home() == tmp_path / "project" / "a" / "b" / ".seqae"


def test_without_one_it_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_home() == tmp_path / "user" / ".local" / "share" / "seqae"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert find_home() == tmp_path / "user" / ".local" / "share" / "seqae"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert find_home() == tmp_path / "data" / "seqae"


def test_a_home_of_somebody_else_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As git: whoever may write to /tmp could put one there."""
    (tmp_path / "project" / ".seqae").mkdir()
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert find_home() == tmp_path / "user" / ".local" / "share" / "seqae"


def test_a_name_counts_more(tmp_path: Path) -> None:
    (tmp_path / "project" / ".seqae").mkdir()
    assert find_home("~/mine") == tmp_path / "user" / "mine"
    assert find_home("here") == tmp_path / "project" / "a" / "b" / "here"


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_refused(name: str) -> None:
    """B10: it would be the current folder."""
    with pytest.raises(Error, match="--home is empty"):
        find_home(name)


def test_a_home_that_is_a_file_is_told(tmp_path: Path) -> None:
    """F4."""
    (tmp_path / "project" / ".seqae").write_text("")
    with pytest.raises(Error, match=r"\.seqae is a file"):
        find_home()
    with pytest.raises(Error, match="is a file"):
        find_home(str(tmp_path / "project" / ".seqae"))
    with pytest.raises(Error, match="can't be found"):
        find_home("~nobody-of-that-name/x")


def test_a_current_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "project" / "a" / "b").rmdir()
    with pytest.raises(Error, match="can't be found"):
        find_home()
