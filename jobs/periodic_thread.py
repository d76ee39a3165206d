"""Daemon thread that calls an action at a fixed interval, for heartbeats, pollers and senders."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

__all__ = ["PeriodicThread"]

logger = logging.getLogger(__name__)


class PeriodicThread:
    """Calls an action again and again in a thread of its own, until it is stopped.

    The interval lies between the end of one call and the start of the next, so calls never overlap. An action that
    raises is logged, and the next call comes after the interval as always: one bad round must not end a thread on
    which a job's liveness depends. The thread is a daemon: it does not keep its process alive.

    An action that works for long may ask `is_stopping` between two pieces of its work.

    Args:
        name: of the thread, for logs and debuggers.
        interval: seconds between two calls.
        action: what is called, without arguments. What it returns is ignored.
        initial_delay: seconds before the first call.
        expected_errors: errors that are part of normal operation, such as a server that is down. They are logged as a
            warning of one line; any other Exception is logged with its trace.
    """

    def __init__(
        self,
        name: str,
        interval: float,
        action: Callable[[], object],
        *,
        initial_delay: float = 0.0,
        expected_errors: tuple[type[Exception], ...] = (),
    ) -> None:
        self._name = name
        self._interval = interval
        self._action = action
        self._initial_delay = initial_delay
        self._expected_errors = expected_errors
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def name(self) -> str:
        """The thread's name."""
        return self._name

    @property
    def is_stopping(self) -> bool:
        """Whether a stop has been asked for: no further call is made."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Starts the thread.

        Raises:
            RuntimeError: it was started before. A thread that was stopped can't be started again; make another.
        """
        self._thread.start()

    def request_stop(self) -> None:
        """Asks for the end and returns at once. A call in progress goes on to its end; none comes after it."""
        self._stopping.set()

    def join(self, timeout: float | None = None) -> bool:
        """Waits for the end of the thread. One that was never started, or that calls this itself, is not waited for.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.

        Returns:
            Whether the thread does not run any more.
        """
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def stop(self, timeout: float | None = None) -> bool:
        """Asks for the end and waits for it, as `request_stop` and `join` do."""
        self.request_stop()
        return self.join(timeout)

    @staticmethod
    def stop_all(threads: "Sequence[PeriodicThread]", timeout: float) -> bool:
        """Stops several at once: all are asked first, and the timeout is for all of them together.

        Args:
            threads: to stop.
            timeout: seconds to wait at most.

        Returns:
            Whether none runs any more.
        """
        for thread in threads:
            thread.request_stop()
        deadline = time.monotonic() + timeout
        return all(thread.join(max(0.0, deadline - time.monotonic())) for thread in threads)

    def _run(self) -> None:
        delay = self._initial_delay
        while not self._stopping.wait(delay):
            self._call()
            delay = self._interval

    def _call(self) -> None:
        try:
            self._action()
        except self._expected_errors as error:
            logger.warning("%s: %s: %s", self._name, type(error).__name__, error)
        except Exception:
            logger.exception("%s failed; it is called again in %g s", self._name, self._interval)
