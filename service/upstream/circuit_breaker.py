"""Circuit breaker for calls to the cluster and to MLflow."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Generic, TypeVar

from seqae.errors import Error
from service.clock import Clock, is_over

__all__ = ["CircuitBreaker"]

ErrorT = TypeVar("ErrorT", bound=Error)
AnswerT = TypeVar("AnswerT")


class CircuitBreaker(Generic[ErrorT]):
    """Lets calls through until one fails with a certain error; then every call fails with it at once for a moment.

    A time-out costs seconds: without this, each of many jobs would pay it in turn while the others wait.

    Args:
        failure: the error of a service that does not answer; other errors are answers, and pass.
        clock: tells the time.
        rest: seconds without calls.
    """

    def __init__(self, failure: type[ErrorT], clock: Clock, rest: float) -> None:
        self._failure = failure
        self._clock = clock
        self._rest = timedelta(seconds=rest)
        self._lock = threading.Lock()
        self._message: str | None = None
        """Of the failure that opened it; None while it is closed."""
        self._open_until = clock()

    def call(self, act: Callable[[], AnswerT]) -> AnswerT:
        """The answer of a call.

        Raises:
            Error: `failure`, by the call itself or by an earlier one less than `rest` seconds ago.
        """
        with self._lock:
            message, open_until = self._message, self._open_until
        if message is not None and not is_over(open_until, self._clock(), self._rest):
            raise self._failure(message)
        try:
            answer = act()
        except self._failure as error:
            with self._lock:
                self._message, self._open_until = str(error), self._clock() + self._rest
            raise
        with self._lock:
            self._message = None
        return answer
