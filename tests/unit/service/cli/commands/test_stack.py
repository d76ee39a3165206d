"""Verbs of the embedded stack, as far as they start nothing."""

import json
from collections.abc import Collection
from pathlib import Path

import pytest

from seqae.errors import Error
from service.local.stack import Stack
from tests.unit.service.cli.conftest import Run


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the verbs ask of the stack; all of it is ready."""
    made: list[str] = []

    def up(stack: Stack, **_: object) -> tuple[()]:
        stack._say("starting")
        made.append(f"up {stack.layout.home.name}")
        return ()

    def down(stack: Stack, only: Collection[object] | None = None) -> None:
        made.append("down")

    monkeypatch.setattr(Stack, "up", up)
    monkeypatch.setattr(Stack, "down", down)
    return made


def test_up_says_where_everything_is_kept(run: Run, calls: list[str], tmp_path: Path) -> None:
    home = tmp_path / "kept"
    done = run("up", "--home", str(home))
    assert done.stdout == f"starting\nthe stack is up; it keeps everything in {home}\n"
    plain = run("up", "--home", str(home), "--json")
    assert json.loads(plain.stdout) == {"home": str(home), "parts": []}
    assert plain.stderr == "starting\n"
    assert json.loads(run("down", "--home", str(home), "--json").stdout)["parts"] == []
    assert calls == ["up kept", "up kept", "down"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("SEQAE_MAX_RETRIES", "x"), ("SEQAE_WEBHOOK_URLS", "no list"), ("SEQAE_PORT", "70000"), ("SEQAE_INFERENCE", "?")],
)
def test_a_setting_that_can_not_be_is_told_before_anything_starts(
    name: str, value: str, run: Run, calls: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """F4: the control plane would have ended in a traceback, after MLflow and Ray had started."""
    monkeypatch.setenv(name, value)
    done = run("up", "--home", str(tmp_path))
    told = done.stderr if done.exit_code == 2 else str(done.exception)
    assert isinstance(done.exception, Error) or done.exit_code == 2
    assert name in told or name.removeprefix("SEQAE_").lower() in told
    assert calls == []


def test_a_storage_that_can_not_be_used_is_told_before_anything_starts(
    run: Run, calls: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEQAE_STORAGE", f"file://{tmp_path}/file/below")
    done = run("up", "--home", str(tmp_path / "home"))
    assert done.exit_code == 1
    assert "SEQAE_STORAGE: the folder can't be used: Not a directory" in str(done.exception)
    monkeypatch.setenv("SEQAE_STORAGE", f"file://{tmp_path}/objects")
    assert run("up", "--home", str(tmp_path / "home")).exit_code == 0
    assert calls == ["up home"]


def test_status_without_a_stack(run: Run, tmp_path: Path) -> None:
    done = run("status", "--home", str(tmp_path / "none"))
    assert (done.exit_code, "seqae up" in done.stdout) == (1, True)
    assert json.loads(run("status", "--home", str(tmp_path / "none"), "--json").stdout)["parts"] == []


def test_a_file_in_place_of_the_demos_folder_is_told(run: Run, calls: list[str], tmp_path: Path) -> None:
    """F4."""
    (tmp_path / "out").write_text("")
    error = run("demo", "--home", str(tmp_path / "home"), "--out", str(tmp_path / "out")).exception
    assert isinstance(error, Error)
    assert "is a file" in str(error)
    assert calls == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--node-ip", "10.0.0.5"), "needs --head"),
        (("--no-head", "--node-ip", "10.0.0.5"), "needs --head"),
        (("--head", "--node-ip", "127.0.0.1"), "no other machine can reach it"),
        (("--head", "--node-ip", "203.0.113.77"), "no address of this machine"),
    ],
)
def test_a_head_that_nobody_could_reach_is_told_before_anything_starts(
    options: tuple[str, ...], why: str, run: Run, calls: list[str], tmp_path: Path
) -> None:
    done = run("up", "--home", str(tmp_path / "home"), *options)
    assert isinstance(done.exception, Error)
    assert why in str(done.exception)
    assert calls == []
    assert not (tmp_path / "home").exists()


def test_a_head_is_asked_for_or_not(
    run: Run, calls: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("service.local.node_addresses.outward_ip", lambda: "10.0.0.5")
    found: list[str | None] = []
    monkeypatch.setattr(Stack, "up", lambda stack, **_: found.append(stack._node_ip))
    for options in ((), ("--head",), ("--no-head",)):
        assert run("up", "--home", str(tmp_path), *options).exit_code == 0
    assert found == [None, "10.0.0.5", "127.0.0.1"]
