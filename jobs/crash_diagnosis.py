"""Diagnosis of a driver that died without a result, from what it printed last."""

import re

from jobs.directory.records import Failure
from jobs.errors import ErrorClass
from jobs.telemetry.log_text import as_text

__all__ = ["explain"]

_LAST_LINES = 30
"""Errors further up did not end the driver: it went on to print more."""

_SIGNS: tuple[tuple[ErrorClass, tuple[str, ...]], ...] = (
    (ErrorClass.DISK_FULL, ("No space left on device", "Disk quota exceeded")),
    (ErrorClass.OUT_OF_MEMORY, ("OutOfMemoryError", "MemoryError", "out of memory", "memory pressure")),
    (ErrorClass.INFRASTRUCTURE, ("ray.exceptions.", "ConnectionError", "Connection closed by peer", "GCS", "gcs_")),
)
_UNCAUGHT = re.compile(r"[\w.]*(Error|Exception)\b|.*error: (unrecognized arguments|the following arguments)")
"""The last line of a process that Python itself ended: before the driver could write a result, so it would repeat."""


def explain(text: str) -> Failure:
    """The most likely error of a driver that died without a result.

    Args:
        text: the driver's output, lines of text or JSON; empty when there is none.

    Returns:
        Its class and its message; of the class INFRASTRUCTURE when the output says nothing.
    """
    lines = [line.strip() for line in as_text(text).splitlines()[-_LAST_LINES:] if line.strip()]
    for error_class, signs in _SIGNS:
        telling = [line for line in lines if any(sign in line for sign in signs)]
        if telling:
            return _failure(error_class, f"the driver died without a result: {telling[-1]}")
    if lines and _UNCAUGHT.match(lines[-1]):
        return _failure(ErrorClass.INTERNAL, f"the driver died without a result: {lines[-1]}")
    return _failure(ErrorClass.INFRASTRUCTURE, "the driver was killed, or its machine was lost")


def _failure(error_class: ErrorClass, message: str) -> Failure:
    return Failure(error_class=error_class, message=message[:4000])
