import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from jobs.periodic_thread import PeriodicThread

Make = Callable[..., PeriodicThread]

SOON = 10.0
"""Seconds after which a test gives up waiting."""


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes threads that are stopped at the end of the test."""
    made: list[PeriodicThread] = []

    def make(
        action: Callable[[], object],
        interval: float = 0.001,
        initial_delay: float = 0.0,
        expected_errors: tuple[type[Exception], ...] = (),
    ) -> PeriodicThread:
        thread = PeriodicThread("poll", interval, action, initial_delay=initial_delay, expected_errors=expected_errors)
        made.append(thread)
        return thread

    yield make
    for thread in made:
        assert thread.stop(SOON)


class _Calls:
    """An action that counts its calls and raises the errors that it was made with."""

    def __init__(self, *errors: Exception) -> None:
        self.count = 0
        self.reached = threading.Event()
        self._errors = list(errors)

    def __call__(self) -> None:
        self.count += 1
        if self._errors:
            raise self._errors.pop(0)
        if self.count >= 3:
            self.reached.set()


def test_the_action_is_called_until_the_stop(make: Make) -> None:
    calls = _Calls()
    thread = make(calls)
    assert (thread.name, thread.is_stopping) == ("poll", False)
    thread.start()
    assert calls.reached.wait(SOON)
    assert thread.stop(SOON)
    assert thread.is_stopping
    count = calls.count
    threading.Event().wait(0.05)
    assert calls.count == count


def test_the_first_call_comes_at_once_and_the_second_after_the_interval(make: Make) -> None:
    called = threading.Event()
    calls: list[int] = []

    def action() -> None:
        calls.append(1)
        called.set()

    make(action, interval=60).start()
    assert called.wait(SOON)
    threading.Event().wait(0.05)
    assert len(calls) == 1


def test_the_first_call_can_be_delayed(make: Make) -> None:
    calls = _Calls()
    thread = make(calls, initial_delay=60)
    thread.start()
    threading.Event().wait(0.05)
    assert thread.stop(SOON), "the stop ends the delay"
    assert calls.count == 0


def test_an_unforeseen_error_is_logged_with_its_trace_and_the_thread_goes_on(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    calls = _Calls(ValueError("a bug"))
    make(calls).start()
    assert calls.reached.wait(SOON)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "poll" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


def test_an_expected_error_is_a_warning_of_one_line(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    calls = _Calls(OSError("disk full"), ConnectionError("down"))
    make(calls, expected_errors=(OSError,)).start()
    assert calls.reached.wait(SOON)
    assert [(record.levelno, record.exc_info) for record in caplog.records] == [(logging.WARNING, None)] * 2
    assert caplog.records[0].getMessage() == "poll: OSError: disk full"


def test_a_stop_waits_for_the_call_in_progress_but_not_for_ever(make: Make) -> None:
    entered, release = threading.Event(), threading.Event()
    ended: list[bool] = []

    def action() -> None:
        entered.set()
        ended.append(release.wait(SOON))

    thread = make(action)
    thread.start()
    assert entered.wait(SOON)
    assert not thread.stop(timeout=0.05), "it still runs"
    release.set()
    assert thread.join(SOON)
    assert ended == [True], "and was not called again"


def test_an_action_may_stop_its_own_thread(make: Make) -> None:
    answers: list[bool] = []

    def action() -> None:
        answers.append(thread.stop())

    thread = make(action)
    thread.start()
    assert thread.join(SOON)
    assert answers == [False], "its own thread runs still"


def test_one_that_was_never_started_can_be_stopped(make: Make) -> None:
    calls = _Calls()
    thread = make(calls)
    assert thread.stop()
    thread.start()
    assert thread.join(SOON)
    assert calls.count == 0


def test_it_is_started_once(make: Make) -> None:
    thread = make(_Calls())
    thread.start()
    with pytest.raises(RuntimeError):
        thread.start()


def test_several_stop_within_one_timeout(make: Make) -> None:
    release = threading.Event()
    busy = [make(lambda: release.wait(SOON)) for _ in range(3)]
    entered = threading.Event()
    idle = make(entered.set, interval=60)
    for thread in [*busy, idle]:
        thread.start()
    assert entered.wait(SOON)
    assert not PeriodicThread.stop_all([*busy, idle], timeout=0.05)
    assert all(thread.is_stopping for thread in [*busy, idle])
    release.set()
    assert PeriodicThread.stop_all([*busy, idle], timeout=SOON)
