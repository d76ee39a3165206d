"""Which paths of a spec are allowed, and files that are opened without being trusted."""

import json
import os
import socket
from pathlib import Path

import pytest

from seqae.config import ImagesConfig, ModelConfig
from seqae.data.cache import load_data
from seqae.data.paths import AllowedRoots, NotRegularError, open_regular, printable, roots_from_environment
from seqae.errors import DataError


@pytest.fixture
def roots(tmp_path: Path) -> AllowedRoots:
    for name in ("data/photos", "further/more", "outside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "outside" / "secret.json").write_text("secret")
    (tmp_path / "data" / "link-in").symlink_to(tmp_path / "further")
    (tmp_path / "data" / "link-out").symlink_to(tmp_path / "outside")
    (tmp_path / "data" / "link-nowhere").symlink_to(tmp_path / "outside" / "nothing")
    (tmp_path / "data" / "link-loop").symlink_to("link-loop")
    return AllowedRoots(tmp_path / "data", (tmp_path / "further",))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("photos", "data/photos"),
        (".", "data"),
        ("photos/../photos", "data/photos"),
        ("link-in/more", "further/more"),
        ("{0}/data/photos", "data/photos"),
        ("{0}/further/more", "further/more"),
        ("{0}/outside/../data", "data"),
    ],
)
def test_paths_below_the_roots_are_found(path: str, found: str, roots: AllowedRoots, tmp_path: Path) -> None:
    assert roots.locate(path.format(tmp_path), "data.path") == tmp_path / found


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../outside",
        "../nothing",
        "../../../../../../etc/passwd",
        "../../../../../../etc/nothing",
        "/etc/passwd",
        "/etc/nothing",
        "/",
        "link-out",
        "link-out/secret.json",
        "link-out/nothing",
        "link-nowhere",
        "photos/../../outside",
        "{0}/outside",
        "{0}/data-of-others",
        "{0}/data/../outside",
        "link-loop",
        "nul\x00byte",
    ],
)
def test_what_is_outside_is_refused_whether_it_exists_or_not(path: str, roots: AllowedRoots, tmp_path: Path) -> None:
    """D1: `path: ../../..` trained on any folder, and the error told which folders exist."""
    path = path.format(tmp_path)
    with pytest.raises(DataError) as raised:
        roots.locate(path, "data.path")
    assert str(raised.value) == (
        f"data.path: {printable(path)} is not below the data folder (SEQAE_DATA_DIR) "
        "or one of the further roots (SEQAE_DATA_ROOTS)"
    )


@pytest.mark.parametrize("path", ["nothing", "photos/nothing", "x" * 300, "photos/" * 1000])
def test_what_is_missing_inside_is_said_to_be(path: str, roots: AllowedRoots) -> None:
    with pytest.raises(DataError, match=r"data\.path: there is no"):
        roots.locate(path, "data.path")


def test_without_a_data_folder_nothing_is_allowed_but_the_roots(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none is set"):
        AllowedRoots().locate("photos", "data.path")
    with pytest.raises(DataError, match="not below"):
        AllowedRoots().locate(str(tmp_path), "data.path")
    assert AllowedRoots(None, (tmp_path,)).locate(str(tmp_path), "data.path") == tmp_path


def test_a_root_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "disk" / "photos").mkdir(parents=True)
    (tmp_path / "data").symlink_to("disk")
    for root in (tmp_path / "data", tmp_path / "x" / ".." / "data"):
        assert AllowedRoots(root).locate("photos", "data.path") == tmp_path / "disk" / "photos"


def test_the_roots_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", " "):
        monkeypatch.setenv("SEQAE_DATA_ROOTS", text)
        assert roots_from_environment() == ()
    monkeypatch.setenv("SEQAE_DATA_ROOTS", json.dumps([str(tmp_path), "/mnt"]))
    assert AllowedRoots.configured(None) == AllowedRoots(None, (tmp_path, Path("/mnt")))
    for text in ("/mnt", "{}", '["relative"]', "[1]", "[" * 10_000):
        monkeypatch.setenv("SEQAE_DATA_ROOTS", text)
        with pytest.raises(DataError, match="JSON list of absolute paths"):
            roots_from_environment()


@pytest.mark.parametrize("field", ["path", "annotations"])
def test_data_outside_is_refused_and_its_content_is_not_shown(field: str, roots: AllowedRoots, tmp_path: Path) -> None:
    """D1: `annotations: <any file>` put its bytes into the job's public error."""
    given = {"path": "photos"} | {field: "../outside/secret.json"}
    with pytest.raises(DataError, match=f"data.{field}: .* is not below") as raised:
        load_data(ImagesConfig(**given), ModelConfig(), tmp_path / "cache", roots.data_dir)
    assert "root:" not in str(raised.value)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """D4: a pipe would block, a device may never end."""
    (tmp_path / "file").write_text("hello")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"hello"
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
            with pytest.raises(NotRegularError, match="not a regular file"):
                open_regular(path)
        with pytest.raises(OSError, match="No such device"):
            open_regular(tmp_path / "socket")


def test_names_are_shown_whatever_bytes_they_hold() -> None:
    """D5: such a name can't be put into a log or into JSON as it is."""
    assert printable(os.fsdecode(b"gr\xfcn/\xc3\xbc\n\x1b[31m")) == "gr\\xfcn/ü\\n\\x1b[31m"
