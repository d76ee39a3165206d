"""How the process of the control plane is set up."""

import gc

import pytest

from service.__main__ import collect_seldom, main


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
