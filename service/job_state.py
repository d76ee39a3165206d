"""The state machine of a job, in one table. Nothing else decides which state may follow which."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

__all__ = [
    "ACTIVE",
    "ENDED",
    "TRANSITIONS",
    "WAITING",
    "AttemptOutcome",
    "Desired",
    "EventType",
    "State",
    "is_legal",
    "reason_for",
]


class State(StrEnum):
    """Where a job is. The database holds the truth; the cluster and MLflow are only asked for evidence."""

    QUEUED = "QUEUED"
    """Accepted; waits for its turn. No attempt is open."""
    SUBMITTING = "SUBMITTING"
    """Has its turn: its next attempt is written down, and the cluster is being asked to run it."""
    STARTING = "STARTING"
    """The cluster has the attempt; no heartbeat has been seen yet."""
    RUNNING = "RUNNING"
    """The attempt's heartbeat has been seen."""
    FINALIZING = "FINALIZING"
    """The attempt has succeeded; its metrics and model are being taken to MLflow. Repeated until MLflow has them."""
    LOST = "LOST"
    """The attempt is gone without a result, or must be taken for gone. It is fenced off next."""
    RETRY_WAIT = "RETRY_WAIT"
    """The next attempt waits out its back-off."""
    PAUSING = "PAUSING"
    """The attempt was asked to write a checkpoint and leave; by force after a grace time."""
    PAUSED = "PAUSED"
    """Waits for a person to resume it. No attempt is open."""
    CANCELLING = "CANCELLING"
    """The attempt was asked to leave; by force after a grace time."""
    SUCCEEDED = "SUCCEEDED"
    """Ended: MLflow has its metrics and its model, if it makes one. Never changes again."""
    FAILED = "FAILED"
    """Ended: see the error. Never changes again."""
    CANCELLED = "CANCELLED"
    """Ended: a person cancelled it. Never changes again."""
    UNKNOWN = "UNKNOWN"
    """A state of another release, as it is read here. Never written, and left alone."""

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended; an ended job's state never changes."""
        return self in ENDED


class Desired(StrEnum):
    """What a person wants of a job; the reconciler moves the state towards it."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"
    UNKNOWN = "unknown"
    """A wish of another release, as it is read here. Never written, and left alone."""


class AttemptOutcome(StrEnum):
    """How an attempt ended, for the control plane."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    """To infrastructure, or to an error that is tried again."""
    PAUSED = "paused"
    CANCELLED = "cancelled"


class EventType(StrEnum):
    """Type of an event, and the `event` field of its server-sent event."""

    TRANSITION = "transition"
    """From one state to another."""
    PROGRESS = "progress"
    """A heartbeat that says more than the one before."""
    METRICS = "metrics"
    """An evaluation."""
    FRAME = "frame"
    """A film strip."""
    NOTICE = "notice"
    """Something an attempt wrote down for people: a damaged checkpoint, a lost worker."""
    PROMOTION = "promotion"
    """A decision on the job's model: it became the champion, or why not."""
    WAITING = "waiting"
    """It does not get further, and what for; or it goes on."""
    DELETED = "deleted"
    """The job and its files are gone; its events stay."""
    RETENTION = "retention"
    """Ended jobs were removed since they were over a limit. It is of no job: its `job_id` is empty."""


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
"""States that never change."""

ACTIVE = frozenset(
    {State.SUBMITTING, State.STARTING, State.RUNNING, State.PAUSING, State.CANCELLING, State.FINALIZING, State.LOST}
)
"""States that the reconciler looks at every round."""

WAITING = frozenset({State.QUEUED, State.RETRY_WAIT, State.PAUSED})
"""States in which no attempt is open, and the job may be moved without asking the cluster."""

TRANSITIONS: Mapping[State, Mapping[State, str]] = MappingProxyType(
    {
        State.QUEUED: {
            State.SUBMITTING: "admitted",
            State.PAUSED: "paused before it started",
            State.CANCELLED: "cancelled before it started",
            State.FAILED: "waited longer than the scheduling deadline",
        },
        State.SUBMITTING: {
            State.STARTING: "the cluster has it",
            State.LOST: "the cluster that was asked is gone",
            State.PAUSING: "asked to pause",
            State.CANCELLING: "asked to cancel",
            State.FAILED: "can't be submitted",
        },
        State.STARTING: {
            State.RUNNING: "first heartbeat",
            State.FINALIZING: "the attempt has succeeded",
            State.LOST: "the attempt was lost before it ran",
            State.PAUSING: "asked to pause",
            State.CANCELLING: "asked to cancel",
            State.FAILED: "the attempt has failed",
        },
        State.RUNNING: {
            State.FINALIZING: "the attempt has succeeded",
            State.LOST: "the attempt was lost",
            State.PAUSING: "asked to pause",
            State.CANCELLING: "asked to cancel",
            State.FAILED: "the attempt has failed",
        },
        State.PAUSING: {
            State.PAUSED: "the attempt has left",
            State.FINALIZING: "the attempt had succeeded before it saw the request",
            State.CANCELLING: "asked to cancel",
            State.FAILED: "the attempt has failed",
        },
        State.PAUSED: {
            State.QUEUED: "resumed",
            State.CANCELLED: "cancelled while it was paused",
        },
        State.CANCELLING: {
            State.CANCELLED: "the attempt has left",
            State.FAILED: "stopped at its time limit",
        },
        State.LOST: {
            State.RETRY_WAIT: "will be tried again",
            State.PAUSED: "paused instead of trying again",
            State.CANCELLED: "cancelled instead of trying again",
            State.FAILED: "tried too often",
        },
        State.RETRY_WAIT: {
            State.QUEUED: "the back-off is over",
            State.PAUSED: "paused instead of trying again",
            State.CANCELLED: "cancelled instead of trying again",
            State.FAILED: "waited longer than the scheduling deadline",
        },
        State.FINALIZING: {
            State.SUCCEEDED: "MLflow has everything",
            State.LOST: "the model's checkpoint is damaged",
            State.CANCELLED: "cancelled before the model was registered",
            State.FAILED: "the model can't be registered",
        },
        State.SUCCEEDED: {},
        State.FAILED: {},
        State.CANCELLED: {},
        State.UNKNOWN: {},
    }
)
"""Every allowed step, from -> to -> the usual reason for it."""


def is_legal(before: State, after: State) -> bool:
    """Whether a job may go from `before` to `after` in one step."""
    return after in TRANSITIONS[before]


def reason_for(before: State, after: State) -> str:
    """The usual reason for a step.

    Raises:
        KeyError: the step is not allowed.
    """
    return TRANSITIONS[before][after]
