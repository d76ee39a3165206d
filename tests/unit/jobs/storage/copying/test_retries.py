"""Repetition of what a storage did not answer."""

import time

import pytest

from jobs.errors import StorageUnavailable
from jobs.storage.copying import retries
from jobs.storage.copying.retries import retry_until


class _Failing:
    def __init__(self, times: int) -> None:
        self.remaining = times
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.remaining:
            self.remaining -= 1
            raise StorageUnavailable("no answer")
        return "done"


def test_it_is_asked_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_WAIT", 0.01)
    act = _Failing(3)
    assert retry_until(time.monotonic() + 60, act) == "done"
    assert act.calls == 4


def test_it_is_asked_once_when_there_is_no_time_left() -> None:
    act = _Failing(1)
    with pytest.raises(StorageUnavailable):
        retry_until(time.monotonic() - 1, act)
    assert act.calls == 1
