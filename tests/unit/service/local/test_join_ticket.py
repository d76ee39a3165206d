"""The join token file, and what is compared before a machine joins."""

import os
from pathlib import Path

import pytest

from jobs.directory.storage_marker import NAME, ensure_marker
from service.errors import StackError
from service.local.join_ticket import (
    JoinTicket,
    check_folders,
    check_versions,
    read_ticket,
    read_token,
    write_ticket,
)
from service.schemas.cluster import Versions

SECRET = "5f" * 32


def make_ticket(home: Path) -> JoinTicket:
    return JoinTicket(
        head_address="10.0.0.5:6379",
        versions=Versions.installed(),
        storage=str(home),
        storage_marker=ensure_marker(home),
        ray_token=SECRET,
    )


@pytest.fixture
def ticket(tmp_path: Path) -> JoinTicket:
    return make_ticket(tmp_path)


def test_a_ticket_is_for_its_owner_alone(ticket: JoinTicket, tmp_path: Path) -> None:
    path = tmp_path / "join.token"
    path.write_text("older")
    path.chmod(0o644)
    write_ticket(path, ticket)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_ticket(path) == ticket
    assert read_token(path) == SECRET
    assert SECRET not in repr(ticket)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(ticket: JoinTicket, tmp_path: Path, mode: int) -> None:
    path = tmp_path / "join.token"
    write_ticket(path, ticket)
    path.chmod(mode)
    with pytest.raises(StackError, match=f"mode {mode:04o}.*chmod 600"):
        read_ticket(path)


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"ray_token": "topsecret"}', "{" * 5000, "\u00fc", "x" * 200_000]
)
def test_what_is_no_ticket_is_told_without_its_content(tmp_path: Path, content: str) -> None:
    path = tmp_path / "join.token"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(StackError, match=r"join\.token") as raised:
        read_ticket(path)
    assert "topsecret" not in str(raised.value)
    if content.startswith('{"'):
        assert "head_address" in str(raised.value)


def test_a_missing_file_a_folder_and_a_pipe_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, why in (("none", "No such file"), (".", "directory"), ("pipe", "no file")):
        with pytest.raises(StackError, match=why):
            read_ticket(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "is_token"), [(SECRET, True), (f"{SECRET}\n", True), ("short", False), ("", False)]
)
def test_a_plain_token_may_stand_alone(tmp_path: Path, content: str, is_token: bool) -> None:
    path = tmp_path / "ray.token"
    path.write_text(content)
    path.chmod(0o600)
    if is_token:
        assert read_token(path) == SECRET
    else:
        with pytest.raises(StackError, match="holds no token"):
            read_token(path)


@pytest.mark.parametrize("name", ["seqae", "python", "ray", "torch"])
def test_other_versions_are_refused_by_name(name: str) -> None:
    own = Versions.installed()
    check_versions(own)
    with pytest.raises(StackError, match=f"{name} is {getattr(own, name)} here and 0.0.1 there") as raised:
        check_versions(own.model_copy(update={name: "0.0.1"}))
    assert str(raised.value).count(" there") == 1


def test_a_build_of_torch_is_no_other_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.schemas.cluster.version", lambda _: "2.14.0+cu128")
    with_cuda = Versions.installed()
    assert with_cuda.torch == "2.14.0"
    assert with_cuda.ray == "2.14.0+cu128"


def test_the_same_folder_is_taken(ticket: JoinTicket) -> None:
    check_folders(ticket)


def test_another_folder_of_the_same_path_is_refused(ticket: JoinTicket, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("0" * 32)
    with pytest.raises(StackError, match="another folder than the head's"):
        check_folders(ticket)
    (tmp_path / NAME).unlink()
    with pytest.raises(StackError, match="is not here"):
        check_folders(ticket)


def test_a_data_folder_has_to_be_there(ticket: JoinTicket, tmp_path: Path) -> None:
    check_folders(ticket.model_copy(update={"data_dir": str(tmp_path)}))
    with pytest.raises(StackError, match="pictures is not here"):
        check_folders(ticket.model_copy(update={"data_dir": str(tmp_path / "pictures")}))


def test_with_a_bucket_no_folder_is_shared_but_the_bucket_must_work(tmp_path: Path) -> None:
    bucket = f"file://{tmp_path}/objects"
    ticket = make_ticket(tmp_path).model_copy(update={"storage": str(tmp_path / "not here"), "bucket": bucket})
    check_folders(ticket)
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match="the folder can't be used"):
        check_folders(ticket.model_copy(update={"bucket": f"file://{tmp_path}/file/below"}))
    with pytest.raises(StackError, match="data folder"):
        check_folders(ticket.model_copy(update={"data_dir": str(tmp_path / "none")}))
