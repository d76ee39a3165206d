"""Manners with services that don't answer: a call that fails is not repeated by everybody at once."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from seqae.errors import Error

__all__ = ["CircuitBreaker"]

ErrorT = TypeVar("ErrorT", bound=Error)
AnswerT = TypeVar("AnswerT")


class CircuitBreaker(Generic[ErrorT]):
    """Lets calls through until one fails with a certain error; then every call fails with it at once for a moment.

    A time-out costs seconds: without this, each of many jobs would pay it in turn while the others wait.

    Args:
        failure: the error of a service that doesn't answer.
        clock: tells the time.
        rest: seconds without calls.
    """

    def __init__(self, failure: type[ErrorT], clock: Callable[[], datetime], rest: float) -> None:
        self._failure = failure
        self._clock = clock
        self._rest = timedelta(seconds=rest)
        self._lock = threading.Lock()
        self._last: tuple[datetime, str] | None = None

    def call(self, act: Callable[[], AnswerT]) -> AnswerT:
        """The answer of a call, or the error."""
        with self._lock:
            last = self._last
        if last is not None and self._clock() - last[0] < self._rest:
            raise self._failure(last[1])
        try:
            answer = act()
        except self._failure as error:
            with self._lock:
                self._last = (self._clock(), str(error))
            raise
        with self._lock:
            self._last = None
        return answer
