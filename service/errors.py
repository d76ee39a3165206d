"""The control plane's own errors, and the one map from every error class to an HTTP status."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jobs import errors as jobs
from seqae import errors as seqae
from seqae.errors import Error

__all__ = [
    "STATUS",
    "ApiError",
    "BodyTooLargeError",
    "ConflictError",
    "CursorError",
    "FieldProblem",
    "FrameNotFoundError",
    "JobNotFoundError",
    "MalformedBodyError",
    "MediaTypeError",
    "ModelLoadingError",
    "ModelNotFoundError",
    "ModelTimeoutError",
    "NotAcceptableError",
    "OverloadedError",
    "QuotaError",
    "SlowBodyError",
    "SpecRefusedError",
    "StackError",
    "StaleRowError",
    "StoreUnavailableError",
    "UploadError",
]


@dataclass(frozen=True)
class FieldProblem:
    """What is wrong with one field of a request."""

    pointer: str
    """JSON pointer of the field, as a URI fragment: "#/scaling/workers"."""
    detail: str


class JobNotFoundError(Error):
    """No job has this id."""


class ConflictError(Error):
    """The job's state, or an earlier use of the same idempotency key, forbids what was asked."""


class SpecRefusedError(Error):
    """A valid spec that can't be run here, such as one that asks for more than the cluster has."""

    def __init__(self, problems: tuple[FieldProblem, ...]) -> None:
        super().__init__("; ".join(problem.detail for problem in problems))
        self.problems = problems


class QuotaError(Error):
    """The owner, or everybody together, has as many jobs as is allowed. Try again later."""


class CursorError(Error):
    """A page cursor that this service did not hand out."""


class StoreUnavailableError(Error):
    """The job database does not answer. Try again later."""


class StaleRowError(Error):
    """The row was changed by another process since it was read, or its lease was lost: read it again."""


class FrameNotFoundError(Error):
    """The job has no film strip of this step (yet)."""


class ModelNotFoundError(Error):
    """No registered model has this version or comes from this job."""


class ModelLoadingError(Error):
    """There is a model, but it is still being loaded. Try again in a moment."""


class ModelTimeoutError(Error):
    """The model did not answer in time."""


class OverloadedError(Error):
    """As many requests wait for the model as may wait. Try again in a moment."""


class UploadError(Error):
    """A well-formed request whose image can't be used.

    Args:
        message: what is wrong.
        pointer: JSON pointer of the field at fault, or "" for a multipart body.
        part: name of the multipart part at fault.
    """

    def __init__(self, message: str, *, pointer: str = "", part: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer
        self.part = part


class MalformedBodyError(Error):
    """A body that can't be parsed as what it says it is."""


class BodyTooLargeError(Error):
    """A body larger than this service takes."""


class SlowBodyError(Error):
    """A body that did not arrive in time."""


class MediaTypeError(Error):
    """A body of a type that this address does not take."""


class NotAcceptableError(Error):
    """The client accepts none of the types that this address can answer with."""


class StackError(Error):
    """The embedded stack can't be started, found or ended. Only the command line meets it."""


class ApiError(Error):
    """The service refused a client's request, or can't be reached. Raised by the client only.

    Args:
        message: what is wrong, with every field at fault.
        status: the answer's HTTP status; None where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


STATUS: Mapping[type[Error], int] = MappingProxyType(
    {
        # The request is at fault.
        MalformedBodyError: 400,
        CursorError: 400,
        JobNotFoundError: 404,
        FrameNotFoundError: 404,
        ModelNotFoundError: 404,
        NotAcceptableError: 406,
        SlowBodyError: 408,
        ConflictError: 409,
        BodyTooLargeError: 413,
        MediaTypeError: 415,
        SpecRefusedError: 422,
        UploadError: 422,
        seqae.ImageError: 422,
        seqae.DataError: 422,
        seqae.FigureError: 422,
        seqae.SamplingError: 422,
        QuotaError: 429,
        # A part of this service is not there, or not yet: trying again later helps.
        StoreUnavailableError: 503,
        OverloadedError: 503,
        ModelLoadingError: 503,
        ModelTimeoutError: 503,
        StaleRowError: 503,
        jobs.LauncherUnavailable: 503,
        jobs.TrackingUnavailable: 503,
        jobs.NoModel: 503,
        # What fails an attempt ends in its job's `error`. If one comes up in a request, this service is at fault.
        Error: 500,
        seqae.CheckpointError: 500,
        seqae.DivergedError: 500,
        jobs.SubmissionRefused: 500,
        jobs.FolderError: 500,
        jobs.NoRun: 500,
        jobs.FencedError: 500,
        jobs.WorkersLostError: 500,
        jobs.OutOfMemoryError: 500,
        jobs.DiskFullError: 500,
        # Raised outside the service.
        StackError: 500,
        ApiError: 500,
    }
)
"""The status of every class of the tree, each exactly once; a test walks the tree."""
