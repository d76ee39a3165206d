"""Errors between control plane, cluster and tracking server, and the classes of a job's error."""

from enum import StrEnum

from seqae.errors import Error

__all__ = [
    "DiskFullError",
    "ErrorClass",
    "FencedError",
    "FolderError",
    "LauncherUnavailable",
    "NoModel",
    "NoRun",
    "OutOfMemoryError",
    "PreemptedError",
    "SpecUnreadable",
    "StorageRefused",
    "StorageUnavailable",
    "SubmissionRefused",
    "TrackingRefused",
    "TrackingUnavailable",
    "WorkersLostError",
]


class LauncherUnavailable(Error):  # noqa: N818
    """The cluster did not answer in time. Nothing is known: neither that a job lives nor that it is lost."""


class SubmissionRefused(Error):  # noqa: N818
    """The cluster answered, and refuses the submission; trying the same again won't help."""


class TrackingUnavailable(Error):  # noqa: N818
    """The tracking server did not answer, or answered with a failure of its own. Try again later."""


class TrackingRefused(Error):  # noqa: N818
    """The tracking server answered, and does not take what a job sent; trying the same again won't help.

    It concerns that job alone: the server works for the others.
    """


class NoModel(Error):  # noqa: N818
    """No registered model answers to what was asked for."""


class NoRun(Error):  # noqa: N818
    """The tracking server answers, and knows no such run: it was deleted, or the server's database was replaced."""


class FolderError(Error):
    """A file of a job's folder is missing or can't be read. The text names it."""


class SpecUnreadable(Error):  # noqa: N818
    """A stored spec can't be read by this release. It concerns its own job alone.

    Args:
        message: why; it names the field and quotes nothing of it.
        is_newer: a newer release stored it, which may be running beside this one.
    """

    def __init__(self, message: str, *, is_newer: bool = False) -> None:
        super().__init__(message)
        self.is_newer = is_newer


class FencedError(Error):
    """A newer attempt of the same job exists: this one must stop and commit nothing."""


class StorageUnavailable(Error):  # noqa: N818
    """The object storage did not answer in time, or answered with a failure of its own. Try again later.

    Whether what was asked for has been done is not known.
    """


class StorageRefused(Error):  # noqa: N818
    """The object storage answered, and refuses: no such bucket, no or wrong credentials, no permission.

    The text names which, and quotes neither keys nor the answer.
    """


class WorkersLostError(Error):
    """A worker, its node, or the connection between workers was lost."""


class PreemptedError(Error):
    """A worker was told that its machine is about to be taken away; a checkpoint was written. The text says by what."""


class OutOfMemoryError(Error):
    """The main memory or the GPU's memory did not suffice."""


class DiskFullError(Error):
    """The disk that holds the job's folder is full."""


class ErrorClass(StrEnum):
    """Class of a job's error: it decides whether the control plane tries again by itself."""

    DATA = "data"
    """The data source is missing, damaged or empty."""
    DIVERGED = "diverged"
    """The loss was not finite."""
    OUT_OF_MEMORY = "out_of_memory"
    """Main or GPU memory did not suffice."""
    DISK_FULL = "disk_full"
    """The disk of the job folder is full."""
    INTERNAL = "internal"
    """Anything unforeseen in the training code."""
    INFRASTRUCTURE = "infrastructure"
    """A worker, node, head or driver was lost; the next attempt resumes, and the user's retries are not spent."""
    PREEMPTED = "preempted"
    """A machine was about to be taken away, and the attempt left in time; the next one goes on where it ended. Neither
    the user's retries nor the losses that a job may have are spent."""

    # Given by the control plane, never by an attempt.
    CHECKPOINT = "checkpoint"
    """The checkpoint that a successful attempt named is damaged; the next attempt resumes from an older one."""
    TIME_LIMIT = "time_limit"
    """The job ran for longer than it may."""
    SUBMISSION_REFUSED = "submission_refused"
    """The cluster refused the submission."""
    SCHEDULING_DEADLINE = "scheduling_deadline"
    """The job waited in the queue for longer than it may."""
    SPEC_UNREADABLE = "spec_unreadable"
    """The stored spec can't be read by this release."""

    @property
    def is_users(self) -> bool:
        """Whether the job itself is at fault: a retry would spend one of the user's retries."""
        return self not in (ErrorClass.INFRASTRUCTURE, ErrorClass.PREEMPTED, ErrorClass.CHECKPOINT)
