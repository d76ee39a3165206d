"""Repetition of what a storage did not answer."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from jobs.errors import StorageUnavailable

__all__ = ["retry_until"]

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

_WAIT = 2.0


def retry_until(deadline: float, act: Callable[[], ResultT]) -> ResultT:
    """Calls an action until the storage answers; at least once.

    Args:
        deadline: of the monotonic clock, in seconds.
        act: what is called; it must be safe to repeat.

    Raises:
        StorageUnavailable: there was no answer in time.
    """
    while True:
        try:
            return act()
        except StorageUnavailable as error:
            if time.monotonic() + _WAIT > deadline:
                raise
            logger.warning("%s; it is asked again", error)
            time.sleep(_WAIT)
