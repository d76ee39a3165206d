import os
import threading
from pathlib import Path

import pytest

from seqae.errors import Error
from service.cli.files import read_file, write_file


def test_files_and_pipes_are_read(tmp_path: Path) -> None:
    """`<(...)` of a shell is a pipe."""
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_bytes(b"12345")
    assert read_file(file, 5) == b"12345"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"12345",))
    writer.start()
    assert read_file(pipe, 5) == b"12345"
    writer.join()


def test_what_can_not_be_read_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F4: a folder, a pipe without a writer, a device without an end, nothing at all."""
    monkeypatch.setattr("service.cli.files._SILENT_SECONDS", 0.1)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"x" * 1001)
    for name, told in [
        ("missing", "No such file or directory"),
        (".", "it is a folder"),
        ("pipe", "nothing came from it in 0.1 s"),
        ("large", "is larger than 1,000 bytes"),
        ("/dev/zero", "is larger than 1,000 bytes"),
        ("n" * 300, "File name too long"),
    ]:
        with pytest.raises(Error, match=told):
            read_file(tmp_path / name, 1000)


def test_a_file_without_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F4: as root everything can be read, so the system's answer is played."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(Error, match=r"^can't read x: Permission denied$"):
        read_file(Path("x"), 10)


def test_standard_input_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(Error, match="standard input is closed"):
        read_file(Path("-"), 10)


def test_folders_are_made_and_what_can_not_be_written_is_told(tmp_path: Path) -> None:
    """F4: `-o FOLDER`, and a folder below a file."""
    write_file(tmp_path / "new" / "deep" / "a.gif", b"1")
    assert (tmp_path / "new" / "deep" / "a.gif").read_bytes() == b"1"
    (tmp_path / "b.gif").mkdir()
    with pytest.raises(Error, match=r"can't write .*b\.gif: Is a directory"):
        write_file(tmp_path / "b.gif", b"1")
    with pytest.raises(Error, match="can't write"):
        write_file(tmp_path / "new" / "deep" / "a.gif" / "c.gif", b"1")
