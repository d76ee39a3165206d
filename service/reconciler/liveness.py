"""What is known about an attempt, and what follows from it.

The result file is believed first, then the heartbeat, and the cluster's word last: a cluster that does not answer says
nothing, and one that has forgotten an attempt may have been replaced while the attempt's driver lives on.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from jobs.directory.layout import AttemptFolder
from jobs.directory.records import Progress, Result
from jobs.errors import FolderError
from service.settings import ReconcilerSettings
from service.upstream.cluster_monitor import ClusterStatus

__all__ = ["Observation", "Verdict", "has_left", "judge", "read"]

log = logging.getLogger(__name__)

FileT = TypeVar("FileT", Result, Progress)

# A result may be there a moment before a shared file system shows it.
_FILE_DELAY = timedelta(seconds=5)


@dataclass(frozen=True)
class Observation:
    """What is known about an attempt now."""

    result: Result | None
    progress: Progress | None
    word: ClusterStatus


def read(attempt: AttemptFolder) -> tuple[Result | None, Progress | None]:
    """The attempt's own files. A damaged one counts as missing: what wrote it did not write it whole."""
    return _or_none(attempt.read_result), _or_none(attempt.read_progress)


def _or_none(read_file: Callable[[], FileT | None]) -> FileT | None:
    try:
        return read_file()
    except FolderError as error:
        log.warning("%s", error)
        return None


class Verdict(StrEnum):
    """What follows from the evidence."""

    DONE = "done"
    """There is a result."""
    FINE = "fine"
    """It lives, or may still live, or nothing can be known: look again."""
    LOST = "lost"
    """It has ended, or must be taken for dead, without a result."""
    STALLED = "stalled"
    """It lives but gets no further."""
    NOT_STARTED = "not_started"
    """The cluster has had it for too long without starting it."""


def judge(
    evidence: Observation,
    *,
    now: datetime,
    since: datetime,
    alive_at: datetime,
    moved_at: datetime | None,
    settings: ReconcilerSettings,
) -> Verdict:
    """What to make of an attempt.

    Args:
        evidence: what is known.
        now: the time.
        since: when the job came to its present state.
        alive_at: the last sign of life: a new heartbeat, or the cluster's word.
        moved_at: when it was last seen to get further; None before its first heartbeat.
        settings: how patient to be.
    """
    if evidence.result is not None:
        return Verdict.DONE
    quiet = now - alive_at
    has_beaten = evidence.progress is not None
    if evidence.word == ClusterStatus.ENDED and quiet >= (
        _seconds(settings.heartbeat_stale) if has_beaten else _FILE_DELAY
    ):
        return Verdict.LOST
    if evidence.word == ClusterStatus.GONE and quiet >= _seconds(max(settings.lost_after, settings.heartbeat_stale)):
        return Verdict.LOST
    if evidence.word == ClusterStatus.UNKNOWN and quiet >= _seconds(settings.heartbeat_stale):
        return Verdict.FINE
    if has_beaten and moved_at is not None and now - moved_at >= _seconds(settings.stall_after):
        return Verdict.STALLED
    if not has_beaten and evidence.word == ClusterStatus.ALIVE and now - since >= _seconds(settings.start_deadline):
        return Verdict.NOT_STARTED
    return Verdict.FINE


def has_left(evidence: Observation, quiet: timedelta, settings: ReconcilerSettings) -> bool:
    """Whether an attempt that was asked to leave has left.

    Args:
        evidence: what is known.
        quiet: time since the last sign of life.
        settings: how patient to be.
    """
    if evidence.word == ClusterStatus.GONE:
        # Its driver may have outlived the head that knew it.
        return evidence.result is not None or quiet >= _seconds(settings.heartbeat_stale)
    if evidence.word == ClusterStatus.UNKNOWN:
        return evidence.result is not None
    return evidence.word == ClusterStatus.ENDED


def _seconds(number: float) -> timedelta:
    return timedelta(seconds=number)
