"""Paths of a home folder, and whom they are closed to."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from service.errors import StackError
from service.local import home
from service.local.home import HomeLayout


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /tmp, so that nothing of these tests is seen by others."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setattr(home, "_base", lambda: folder)
    monkeypatch.setattr(home, "_LONGEST_RAY_TEMP", 4096)
    return folder


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_home_is_the_folder_that_its_path_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B1: links, `..`, slashes and relative paths name the same stack."""
    (tmp_path / "a/home").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a/home")
    (tmp_path / "above").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    names = ["link", "a/home/", "a/../a/home", "above/home", "above/../a/home", "link/../home/.", "link/."]
    found = {HomeLayout.at(tmp_path / name) for name in names} | {
        HomeLayout.at(Path("home")),
        HomeLayout.at(Path("./home/")),
    }
    assert found == {HomeLayout(tmp_path / "a/home")}


def test_a_path_without_aliases_keeps_the_key_of_earlier_releases(tmp_path: Path) -> None:
    """B1: a stack that an earlier release started is found by its marks."""
    assert HomeLayout.at(tmp_path).key == hashlib.sha256(str(tmp_path).encode()).hexdigest()[:10]


@pytest.mark.parametrize("case", ["file", "below a file", "loop", "not text", "null"])
def test_what_can_be_no_home_is_said_in_a_line(tmp_path: Path, case: str) -> None:
    """B1, B4: no traceback."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = {
        "file": tmp_path / "file",
        "below a file": tmp_path / "file/home",
        "loop": tmp_path / "loop",
        "not text": Path(os.fsdecode(bytes(tmp_path) + b"/\xff")),
        "null": tmp_path / "a\0b",
    }[case]
    with pytest.raises(StackError) as caught:
        HomeLayout.at(path).prepare()
    assert "\n" not in str(caught.value)


def test_everything_is_closed_to_others(tmp_path: Path) -> None:
    """E5: also where the user's umask would leave it open."""
    layout = HomeLayout(tmp_path / "home")
    before = os.umask(0)
    try:
        layout.prepare()
    finally:
        os.umask(before)
    for folder in (layout.home, layout.logs, layout.mlflow, layout.home / "jobs", layout.home / "control"):
        assert _mode(folder) == 0o700, folder
    assert _mode(layout.token) == 0o600


def test_the_home_of_an_earlier_release_is_closed(tmp_path: Path) -> None:
    """E5: its folders were 0755, and its databases and logs 0644."""
    layout = HomeLayout(tmp_path / "home")
    for folder in ("logs", "mlflow", "control", "jobs", "data", "models"):
        (layout.home / folder).mkdir(parents=True, mode=0o755)
    files = [
        layout.state,
        layout.lock,
        layout.logs / "api.log",
        layout.mlflow_database,
        layout.home / "control/jobs.db",
    ]
    for file in files:
        file.touch(mode=0o644)
    layout.home.chmod(0o755)
    layout.prepare()
    assert {_mode(file) for file in files} == {0o600}
    assert {_mode(path) for path in (layout.home, *layout.home.iterdir()) if path.is_dir()} == {0o700}


def test_a_folder_with_the_users_other_things_is_not_closed(tmp_path: Path) -> None:
    """E5: `--home .` must not take a project from others, nor a system's folder from everybody."""
    layout = HomeLayout(tmp_path / "project")
    layout.home.mkdir(mode=0o755)
    layout.home.chmod(0o755)
    (layout.home / "README").touch()
    layout.prepare()
    assert _mode(layout.home) == 0o755
    assert _mode(layout.logs) == 0o700


def test_nothing_is_closed_through_a_link(tmp_path: Path) -> None:
    """E5: a link in the home leads to a folder that may be somebody's."""
    layout, other = HomeLayout(tmp_path / "home"), tmp_path / "shared"
    other.mkdir(mode=0o755)
    other.chmod(0o755)
    layout.home.mkdir()
    (layout.home / "data").symlink_to(other)
    layout.prepare()
    assert _mode(other) == 0o755


# --- Ray's folder


def test_rays_folder_lies_in_one_that_only_we_may_enter(tmp_path: Path, base: Path) -> None:
    """B6: Ray gives its own folder to everybody."""
    layout = HomeLayout(tmp_path / "home")
    temp = layout.with_ray_temp().ray_temp
    assert temp == base / f"seqae-{os.getuid()}" / layout.key
    assert temp.is_dir()
    assert _mode(temp.parent) == 0o700
    assert layout.with_ray_temp().ray_temp == temp, "and may be made again"


@pytest.mark.parametrize("trap", ["link", "open", "file"])
def test_a_folder_that_others_prepared_is_not_used(tmp_path: Path, base: Path, trap: str) -> None:
    """B6: another user can guess the name; what they put there is left alone."""
    usual, other = base / f"seqae-{os.getuid()}", tmp_path / "of-another"
    other.mkdir()
    if trap == "link":
        usual.symlink_to(other)
    elif trap == "open":
        usual.mkdir()
        usual.chmod(0o777)
    else:
        usual.touch()
    temp = HomeLayout(tmp_path / "home").with_ray_temp().ray_temp
    assert temp.parent != usual
    assert temp.parent.parent == base
    assert _mode(temp.parent) == 0o700
    assert list(other.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_used(tmp_path: Path, base: Path) -> None:
    """B6: closed, but not ours."""
    usual = base / f"seqae-{os.getuid()}"
    usual.mkdir(mode=0o700)
    os.chown(usual, 12345, 12345)
    assert HomeLayout(tmp_path / "home").with_ray_temp().ray_temp.parent != usual


def test_rays_sockets_have_room_whatever_tmpdir_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B5: a socket's path has at most 107 bytes, of which Ray needs some 70 below its folder."""
    monkeypatch.undo()
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 100)))
    monkeypatch.setattr(os, "getuid", lambda: 2**31)
    assert len(str(HomeLayout(tmp_path).ray_temp)) <= 107 - 70


def test_a_folder_that_is_too_long_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B5: in a line, not by Ray's trace."""
    monkeypatch.setattr(home, "_LONGEST_RAY_TEMP", 10)
    with pytest.raises(StackError, match="too long"):
        HomeLayout(tmp_path).with_ray_temp()
