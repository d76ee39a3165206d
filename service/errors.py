"""Errors of the control plane, and the table that maps every error class to its HTTP status, code and title."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jobs import errors as jobs
from seqae import errors as seqae
from seqae.errors import Error

__all__ = [
    "PROBLEM_TYPES",
    "AnswerError",
    "ApiError",
    "BackupError",
    "BodyTooLargeError",
    "ClusterClosedError",
    "ConflictError",
    "CursorError",
    "FieldProblem",
    "ForbiddenError",
    "ForeignHostError",
    "ForeignOriginError",
    "FrameNotFoundError",
    "IdentityProviderError",
    "JobNotFoundError",
    "MalformedBodyError",
    "MediaTypeError",
    "ModelLoadingError",
    "ModelNotFoundError",
    "ModelTimeoutError",
    "NewerDatabaseError",
    "NotAcceptableError",
    "OverloadedError",
    "ProblemType",
    "QuotaError",
    "RateLimitError",
    "SlowBodyError",
    "SpecRefusedError",
    "StackError",
    "StaleRowError",
    "StoreUnavailableError",
    "TokenNotFoundError",
    "TrialNotFoundError",
    "UnauthorizedError",
    "UploadError",
    "UpstreamError",
    "problem_type",
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


class ClusterClosedError(Error):
    """No machine can join this cluster: its head listens for none, or nobody has said where it does."""


class SpecRefusedError(Error):
    """A valid spec that can't be run here, such as one that asks for more than the cluster has."""

    def __init__(self, problems: tuple[FieldProblem, ...]) -> None:
        super().__init__("; ".join(problem.detail for problem in problems))
        self.problems = problems


class AnswerError(Error):
    """An answer to a pair of trials that names neither of them."""


class QuotaError(Error):
    """The owner, or everybody together, has as many jobs as is allowed. Try again later."""


class CursorError(Error):
    """A page cursor that this service did not hand out."""


class StoreUnavailableError(Error):
    """The job database does not answer. Try again later."""


class NewerDatabaseError(Error):
    """The tables of the job database are of a newer release, which this one would damage."""


class BackupError(Error):
    """A backup can't be made or restored. The text names the file or the archive's member, and quotes no content."""


class StaleRowError(Error):
    """The row was changed by another process since it was read, or its lease was lost: read it again."""


class FrameNotFoundError(Error):
    """The job has no film strip of this step (yet)."""


class TrialNotFoundError(Error):
    """The job is no search, or has no trial of this number (yet)."""


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


class ForeignHostError(Error):
    """A request to a name that is none of this service's."""


class ForeignOriginError(Error):
    """A request that changes something, made by a web page of another origin."""


class UnauthorizedError(Error):
    """A request without a token that is known, or with one that has ended."""


class ForbiddenError(Error):
    """A request whose token does not allow it, or that changes somebody else's job."""


class RateLimitError(Error):
    """More requests than one owner, or one address, may make. Try again in a moment."""


class TokenNotFoundError(Error):
    """No token has this id."""


class IdentityProviderError(Error):
    """The keys by which tokens of the identity provider are checked can't be had. Try again later."""


class UpstreamError(Error):
    """MLflow or Ray's dashboard, behind the proxy, did not answer."""


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


@dataclass(frozen=True)
class ProblemType:
    """A kind of problem in the sense of RFC 9457: the same status, code and title each time it occurs."""

    status: int
    """HTTP status of the answer."""
    code: str
    """Ends the URI of the type, `urn:seqae:problem:<code>`. Clients may compare it, so it never changes."""
    title: str
    """What the kind of problem is, in one sentence."""


PROBLEM_TYPES: Mapping[type[Error], ProblemType] = MappingProxyType(
    {
        # The request is at fault.
        MalformedBodyError: ProblemType(400, "malformed-body", "A body that can't be parsed as what it says it is"),
        CursorError: ProblemType(400, "cursor", "A page cursor that this service did not hand out"),
        UnauthorizedError: ProblemType(
            401, "unauthorized", "A request without a token that is known, or with one that has ended"
        ),
        ForbiddenError: ProblemType(
            403, "forbidden", "A request whose token does not allow it, or that changes somebody else's job"
        ),
        ForeignOriginError: ProblemType(
            403, "foreign-origin", "A request that changes something, made by a web page of another origin"
        ),
        JobNotFoundError: ProblemType(404, "job-not-found", "No job has this id"),
        FrameNotFoundError: ProblemType(404, "frame-not-found", "The job has no film strip of this step (yet)"),
        TokenNotFoundError: ProblemType(404, "token-not-found", "No token has this id"),
        TrialNotFoundError: ProblemType(
            404, "trial-not-found", "The job is no search, or has no trial of this number (yet)"
        ),
        ModelNotFoundError: ProblemType(
            404, "model-not-found", "No registered model has this version or comes from this job"
        ),
        NotAcceptableError: ProblemType(
            406, "not-acceptable", "The client accepts none of the types that this address can answer with"
        ),
        SlowBodyError: ProblemType(408, "slow-body", "A body that did not arrive in time"),
        ConflictError: ProblemType(
            409, "conflict", "The job's state, or an earlier use of the same idempotency key, forbids what was asked"
        ),
        ClusterClosedError: ProblemType(409, "cluster-closed", "No machine can join this cluster"),
        BodyTooLargeError: ProblemType(413, "body-too-large", "A body larger than this service takes"),
        MediaTypeError: ProblemType(415, "media-type", "A body of a type that this address does not take"),
        ForeignHostError: ProblemType(421, "foreign-host", "A request to a name that is none of this service's"),
        SpecRefusedError: ProblemType(
            422,
            "spec-refused",
            "A valid spec that can't be run here, such as one that asks for more than the cluster has",
        ),
        AnswerError: ProblemType(422, "answer", "An answer to a pair of trials that names neither of them"),
        UploadError: ProblemType(422, "upload", "A well-formed request whose image can't be used"),
        seqae.ImageError: ProblemType(
            422, "image", "An image given for reconstruction can't be used: not an image, truncated, or too large"
        ),
        seqae.DataError: ProblemType(422, "data", "A data source is missing, damaged or empty"),
        seqae.FigureError: ProblemType(
            422,
            "figure",
            "A figure can't be made from this model or this record of training: it lacks what the figure shows",
        ),
        seqae.SamplingError: ProblemType(
            422,
            "sampling",
            "Scenes can't be sampled from this model: its code has no distribution, "
            "or it writes nothing on these images",
        ),
        QuotaError: ProblemType(429, "quota", "The owner, or everybody together, has as many jobs as is allowed"),
        RateLimitError: ProblemType(429, "rate-limit", "More requests than one owner, or one address, may make"),
        UpstreamError: ProblemType(503, "upstream", "MLflow or Ray's dashboard, behind the proxy, did not answer"),
        IdentityProviderError: ProblemType(
            503, "identity-provider", "The keys by which tokens of the identity provider are checked can't be had"
        ),
        # A part of this service is not there, or not yet: trying again later helps.
        StoreUnavailableError: ProblemType(503, "store-unavailable", "The job database does not answer"),
        OverloadedError: ProblemType(503, "overloaded", "As many requests wait for the model as may wait"),
        ModelLoadingError: ProblemType(503, "model-loading", "There is a model, but it is still being loaded"),
        ModelTimeoutError: ProblemType(503, "model-timeout", "The model did not answer in time"),
        StaleRowError: ProblemType(
            503,
            "stale-row",
            "The row was changed by another process since it was read, or its lease was lost: read it again",
        ),
        jobs.LauncherUnavailable: ProblemType(503, "launcher-unavailable", "The cluster did not answer in time"),
        jobs.TrackingUnavailable: ProblemType(
            503, "tracking-unavailable", "The tracking server did not answer, or answered with a failure of its own"
        ),
        jobs.StorageUnavailable: ProblemType(
            503, "storage-unavailable", "The object storage did not answer, or answered with a failure of its own"
        ),
        jobs.StorageRefused: ProblemType(
            503, "storage-refused", "The object storage refuses: its bucket, credentials or permissions are not right"
        ),
        jobs.NoModel: ProblemType(503, "no-model", "No registered model answers to what was asked for"),
        # What fails an attempt ends in its job's `error`. If one comes up in a request, this service is at fault.
        Error: ProblemType(500, "", "Root of every error that seqae raises on purpose"),
        seqae.CheckpointError: ProblemType(
            500,
            "checkpoint",
            "A checkpoint can't be used: a file is missing or truncated, a hash is wrong, "
            "the format is of another version",
        ),
        seqae.NewerCheckpointError: ProblemType(
            500, "newer-checkpoint", "A newer release wrote the checkpoint, and can use it"
        ),
        seqae.DivergedError: ProblemType(500, "diverged", "Training produced a loss that is not finite"),
        jobs.SubmissionRefused: ProblemType(
            500,
            "submission-refused",
            "The cluster answered, and refuses the submission; trying the same again won't help",
        ),
        jobs.TrackingRefused: ProblemType(
            500,
            "tracking-refused",
            "The tracking server answered, and does not take what a job sent; trying the same again won't help",
        ),
        jobs.FolderError: ProblemType(500, "folder", "A file of a job's folder is missing or can't be read"),
        jobs.NoRun: ProblemType(
            500, "no-run", "The tracking server answers, and knows no such run: its database was lost or replaced"
        ),
        jobs.SpecUnreadable: ProblemType(500, "spec-unreadable", "A stored spec can't be read by this release"),
        jobs.FencedError: ProblemType(
            500, "fenced", "A newer attempt of the same job exists: this one must stop and commit nothing"
        ),
        jobs.WorkersLostError: ProblemType(
            500, "workers-lost", "A worker, its node, or the connection between workers was lost"
        ),
        jobs.OutOfMemoryError: ProblemType(500, "out-of-memory", "The main memory or the GPU's memory did not suffice"),
        jobs.DiskFullError: ProblemType(500, "disk-full", "The disk that holds the job's folder is full"),
        # Raised outside the service.
        NewerDatabaseError: ProblemType(500, "newer-database", "The job database is that of a newer release"),
        BackupError: ProblemType(500, "backup", "A backup can't be made or restored"),
        StackError: ProblemType(500, "stack", "The embedded stack can't be started, found or ended"),
        ApiError: ProblemType(500, "api", "The service refused a client's request, or can't be reached"),
    }
)
"""The problem type of every class of the tree, each exactly once; a test walks the tree.

It is written out, so that a new name of a class or another docstring changes no answer."""


def problem_type(error: Error) -> ProblemType:
    """The problem type of an error: that of its class, or of the nearest base class that has one."""
    return next(PROBLEM_TYPES[kind] for kind in type(error).__mro__ if kind in PROBLEM_TYPES)
