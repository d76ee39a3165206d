"""Liveness of an attempt: judged from its files and from what the cluster says.

The result file is believed first, then the heartbeat, and the cluster last: a cluster that does not answer says
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

__all__ = ["Observation", "Verdict", "has_exited", "judge", "read_records"]

log = logging.getLogger(__name__)

FileT = TypeVar("FileT", Result, Progress)

# A result may be there a moment before a shared file system shows it.
_FILE_DELAY = timedelta(seconds=5)


@dataclass(frozen=True)
class Observation:
    """What is known about an attempt now."""

    result: Result | None
    progress: Progress | None
    status: ClusterStatus
    """What the cluster says."""


def read_records(attempt: AttemptFolder) -> tuple[Result | None, Progress | None]:
    """The attempt's result and heartbeat. A damaged file counts as missing: what wrote it did not write it whole."""
    return _or_none(attempt.read_result), _or_none(attempt.read_progress)


def _or_none(read_file: Callable[[], FileT | None]) -> FileT | None:
    try:
        return read_file()
    except FolderError as error:
        log.warning("%s", error)
        return None


class Verdict(StrEnum):
    """What follows from an observation."""

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
    observation: Observation,
    *,
    now: datetime,
    since: datetime,
    last_seen_at: datetime,
    last_progress_at: datetime | None,
    settings: ReconcilerSettings,
) -> Verdict:
    """The verdict on an attempt that was not asked to leave.

    Args:
        observation: what is known.
        now: the time.
        since: when the job came to its present state.
        last_seen_at: the last sign of life: a new heartbeat, or the cluster's word.
        last_progress_at: when it was last seen to get further; None before its first heartbeat.
        settings: how patient to be.
    """
    if observation.result is not None:
        return Verdict.DONE
    quiet = now - last_seen_at
    has_beaten = observation.progress is not None
    if observation.status == ClusterStatus.ENDED and quiet >= (
        _seconds(settings.heartbeat_stale) if has_beaten else _FILE_DELAY
    ):
        return Verdict.LOST
    if observation.status == ClusterStatus.GONE and quiet >= _seconds(
        max(settings.lost_after, settings.heartbeat_stale)
    ):
        return Verdict.LOST
    if observation.status == ClusterStatus.UNKNOWN and quiet >= _seconds(settings.heartbeat_stale):
        return Verdict.FINE
    if has_beaten and last_progress_at is not None and now - last_progress_at >= _seconds(settings.stall_after):
        return Verdict.STALLED
    if (
        not has_beaten
        and observation.status == ClusterStatus.ALIVE
        and now - since >= _seconds(settings.start_deadline)
    ):
        return Verdict.NOT_STARTED
    return Verdict.FINE


def has_exited(observation: Observation, quiet: timedelta, settings: ReconcilerSettings) -> bool:
    """Whether an attempt that was asked to leave has left.

    Args:
        observation: what is known.
        quiet: time since the last sign of life.
        settings: how patient to be.
    """
    if observation.status == ClusterStatus.GONE:
        # Its driver may have outlived the head that knew it.
        return observation.result is not None or quiet >= _seconds(settings.heartbeat_stale)
    if observation.status == ClusterStatus.UNKNOWN:
        return observation.result is not None
    return observation.status == ClusterStatus.ENDED


def _seconds(number: float) -> timedelta:
    return timedelta(seconds=number)
