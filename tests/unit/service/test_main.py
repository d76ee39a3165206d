"""How the process of the control plane is set up."""

import gc
from pathlib import Path

import pytest

from service.__main__ import collect_seldom, main
from service.db.access.tokens import Tokens
from service.db.store import Store
from service.scopes import Scope
from service.server import ServerConfig
from service.settings import Settings


def test_garbage_is_searched_seldom_and_not_among_what_was_loaded() -> None:
    before = gc.get_threshold()
    try:
        collect_seldom()
        assert gc.get_threshold()[0] > 50 * before[0]
        assert gc.get_freeze_count() > 10_000
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def test_a_setting_that_can_not_be_ends_the_process_with_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """F4: `SEQAE_MAX_RETRIES=x` was a traceback."""
    monkeypatch.setenv("SEQAE_MAX_RETRIES", "x")
    assert main() == 1
    (record,) = caplog.records
    assert record.message.startswith("SEQAE_MAX_RETRIES: ")
    assert record.exc_info is None


def test_a_service_that_nobody_could_enter_does_not_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Beyond the loopback every request needs a token; the message says how to make the first one."""
    started: list[Settings] = []
    monkeypatch.setattr("service.__main__.Server", _NoServer(started))
    monkeypatch.setenv("SEQAE_HOME", str(tmp_path))
    monkeypatch.setenv("SEQAE_RECONCILE", "false")
    monkeypatch.setattr("service.__main__.collect_seldom", lambda: None)
    for variables in ({"SEQAE_HOST": "0.0.0.0"}, {"SEQAE_HOST": "::"}, {"SEQAE_TOKENS": "true"}):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            assert main() == 1
        assert f"`seqae token create --owner NAME --scope admin --home {tmp_path}`" in caplog.records[-1].message
    assert started == []
    store = Store(Settings(home=tmp_path).database)
    tokens = Tokens(store.database, store.now)
    tokens.create("ada", [Scope.ADMIN], days=-1)
    tokens.revoke(tokens.create("ada", [Scope.ADMIN])[0].id)
    monkeypatch.setenv("SEQAE_HOST", "0.0.0.0")
    assert main() == 1, "neither can be used"
    tokens.create("ada", [Scope.ADMIN])
    assert main() == 0
    store.close()
    assert [settings.needs_tokens for settings in started] == [True]


class _NoServer:
    """Stands in for the HTTP server, and notes what it would have served."""

    def __init__(self, started: list[Settings]) -> None:
        self._started = started

    def __call__(self, config: ServerConfig, _on_stop: object) -> "_NoServer":
        self._started.append(config.settings)
        return self

    def run(self) -> None:
        pass


def test_a_storage_that_can_not_be_used_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEQAE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEQAE_STORAGE", f"file://{tmp_path}/file/below")
    assert main() == 1
    assert caplog.records[-1].message == "SEQAE_STORAGE: the folder can't be used: Not a directory"
    assert not (tmp_path / "home" / "control" / "jobs.db").exists()
