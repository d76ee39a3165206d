"""Notices that a worker's machine is about to be taken away: SIGTERM, and the drain of its Ray node.

Clouds' notices of spot machines arrive as one of the two: Kubernetes ends the pod with SIGTERM, and Ray's autoscaler
drains the node.
"""

import logging
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from jobs.periodic_thread import PeriodicThread

__all__ = ["Notice", "NoticeSource", "drain_notice", "install_sigterm_handler", "sigterm_notice", "watch_notices"]

logger = logging.getLogger(__name__)

NoticeSource = Callable[[], str | None]
"""Why this worker must go, in words; None while it may stay."""

_INTERVAL = 0.5
"""Seconds between two looks at the sources."""

_sigterm = threading.Event()


def install_sigterm_handler() -> None:
    """Makes SIGTERM a notice in place of this process's end; call it in the main thread.

    A second one ends the process as it would have done.
    """
    before = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: FrameType | None) -> None:
        if _sigterm.is_set() and callable(before):
            before(number, frame)
        _sigterm.set()

    _sigterm.clear()
    signal.signal(signal.SIGTERM, note)


def sigterm_notice() -> str | None:
    """The notice of SIGTERM."""
    return "SIGTERM" if _sigterm.is_set() else None


def drain_notice() -> str | None:
    """The notice that Ray drains this worker's node, for a worker of Ray Train."""
    import ray

    # What Ray Train's own watcher asks. Its public form needs an actor for each job, and all ranks to call it together.
    draining = ray._private.state.state.get_draining_nodes()
    node: str = ray.get_runtime_context().get_node_id()
    return f"Ray drains the node {node[:8]}" if node in draining else None


class Notice:
    """The first notice that a worker got."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """In words; None: there was none."""


def watch_notices(
    sources: Sequence[NoticeSource], on_notice: Callable[[], object], notice: Notice, interval: float = _INTERVAL
) -> PeriodicThread:
    """A thread that asks sources for a notice until the first; the caller starts and stops it.

    Args:
        sources: asked in turn.
        on_notice: called once, in that thread.
        notice: where the reason is written, before the call.
        interval: seconds between two looks.
    """

    def look() -> None:
        if notice.reason is not None:
            return
        for source in sources:
            reason = source()
            if reason is not None:
                logger.warning("this worker must go: %s", reason)
                notice.reason = reason
                on_notice()
                return

    return PeriodicThread("notices", interval, look, expected_errors=(RuntimeError, OSError))
