"""The tree of errors, and what a client is told of each."""

import pytest

import jobs.errors
import seqae.errors
import service.errors
from seqae.errors import Error
from service.api.problems import describe
from service.errors import PROBLEM_TYPES, FieldProblem, SpecRefusedError, problem_type

ANSWERS: dict[type[Error], tuple[int, str, str]] = {
    service.errors.MalformedBodyError: (400, "malformed-body", "A body that can't be parsed as what it says it is"),
    service.errors.CursorError: (400, "cursor", "A page cursor that this service did not hand out"),
    service.errors.JobNotFoundError: (404, "job-not-found", "No job has this id"),
    service.errors.FrameNotFoundError: (404, "frame-not-found", "The job has no film strip of this step (yet)"),
    service.errors.ModelNotFoundError: (
        404,
        "model-not-found",
        "No registered model has this version or comes from this job",
    ),
    service.errors.NotAcceptableError: (
        406,
        "not-acceptable",
        "The client accepts none of the types that this address can answer with",
    ),
    service.errors.SlowBodyError: (408, "slow-body", "A body that did not arrive in time"),
    service.errors.ConflictError: (
        409,
        "conflict",
        "The job's state, or an earlier use of the same idempotency key, forbids what was asked",
    ),
    service.errors.ClusterClosedError: (409, "cluster-closed", "No machine can join this cluster"),
    service.errors.BodyTooLargeError: (413, "body-too-large", "A body larger than this service takes"),
    service.errors.MediaTypeError: (415, "media-type", "A body of a type that this address does not take"),
    service.errors.ForeignHostError: (421, "foreign-host", "A request to a name that is none of this service's"),
    service.errors.ForeignOriginError: (
        403,
        "foreign-origin",
        "A request that changes something, made by a web page of another origin",
    ),
    service.errors.AnswerError: (422, "answer", "An answer to a pair of trials that names neither of them"),
    service.errors.SpecRefusedError: (
        422,
        "spec-refused",
        "A valid spec that can't be run here, such as one that asks for more than the cluster has",
    ),
    service.errors.UploadError: (422, "upload", "A well-formed request whose image can't be used"),
    seqae.errors.ImageError: (
        422,
        "image",
        "An image given for reconstruction can't be used: not an image, truncated, or too large",
    ),
    seqae.errors.DataError: (422, "data", "A data source is missing, damaged or empty"),
    seqae.errors.FigureError: (
        422,
        "figure",
        "A figure can't be made from this model or this record of training: it lacks what the figure shows",
    ),
    seqae.errors.SamplingError: (
        422,
        "sampling",
        "Scenes can't be sampled from this model: its code has no distribution, or it writes nothing on these images",
    ),
    service.errors.UnauthorizedError: (
        401,
        "unauthorized",
        "A request without a token that is known, or with one that has ended",
    ),
    service.errors.ForbiddenError: (
        403,
        "forbidden",
        "A request whose token does not allow it, or that changes somebody else's job",
    ),
    service.errors.TokenNotFoundError: (404, "token-not-found", "No token has this id"),
    service.errors.TrialNotFoundError: (
        404,
        "trial-not-found",
        "The job is no search, or has no trial of this number (yet)",
    ),
    service.errors.RateLimitError: (
        429,
        "rate-limit",
        "More requests than one owner, or one address, may make",
    ),
    service.errors.UpstreamError: (503, "upstream", "MLflow or Ray's dashboard, behind the proxy, did not answer"),
    service.errors.IdentityProviderError: (
        503,
        "identity-provider",
        "The keys by which tokens of the identity provider are checked can't be had",
    ),
    service.errors.QuotaError: (429, "quota", "The owner, or everybody together, has as many jobs as is allowed"),
    service.errors.StoreUnavailableError: (503, "store-unavailable", "The job database does not answer"),
    service.errors.OverloadedError: (503, "overloaded", "As many requests wait for the model as may wait"),
    service.errors.ModelLoadingError: (503, "model-loading", "There is a model, but it is still being loaded"),
    service.errors.ModelTimeoutError: (503, "model-timeout", "The model did not answer in time"),
    service.errors.StaleRowError: (
        503,
        "stale-row",
        "The row was changed by another process since it was read, or its lease was lost: read it again",
    ),
    jobs.errors.LauncherUnavailable: (503, "launcher-unavailable", "The cluster did not answer in time"),
    jobs.errors.TrackingUnavailable: (
        503,
        "tracking-unavailable",
        "The tracking server did not answer, or answered with a failure of its own",
    ),
    jobs.errors.StorageUnavailable: (
        503,
        "storage-unavailable",
        "The object storage did not answer, or answered with a failure of its own",
    ),
    jobs.errors.StorageRefused: (
        503,
        "storage-refused",
        "The object storage refuses: its bucket, credentials or permissions are not right",
    ),
    jobs.errors.NoModel: (503, "no-model", "No registered model answers to what was asked for"),
    seqae.errors.Error: (500, "", "Root of every error that seqae raises on purpose"),
    seqae.errors.CheckpointError: (
        500,
        "checkpoint",
        "A checkpoint can't be used: a file is missing or truncated, a hash is wrong, the format is of another version",
    ),
    seqae.errors.NewerCheckpointError: (
        500,
        "newer-checkpoint",
        "A newer release wrote the checkpoint, and can use it",
    ),
    seqae.errors.DivergedError: (500, "diverged", "Training produced a loss that is not finite"),
    jobs.errors.SubmissionRefused: (
        500,
        "submission-refused",
        "The cluster answered, and refuses the submission; trying the same again won't help",
    ),
    jobs.errors.TrackingRefused: (
        500,
        "tracking-refused",
        "The tracking server answered, and does not take what a job sent; trying the same again won't help",
    ),
    jobs.errors.FolderError: (500, "folder", "A file of a job's folder is missing or can't be read"),
    jobs.errors.NoRun: (
        500,
        "no-run",
        "The tracking server answers, and knows no such run: its database was lost or replaced",
    ),
    jobs.errors.SpecUnreadable: (500, "spec-unreadable", "A stored spec can't be read by this release"),
    jobs.errors.FencedError: (
        500,
        "fenced",
        "A newer attempt of the same job exists: this one must stop and commit nothing",
    ),
    jobs.errors.WorkersLostError: (
        500,
        "workers-lost",
        "A worker, its node, or the connection between workers was lost",
    ),
    jobs.errors.OutOfMemoryError: (500, "out-of-memory", "The main memory or the GPU's memory did not suffice"),
    jobs.errors.DiskFullError: (500, "disk-full", "The disk that holds the job's folder is full"),
    service.errors.NewerDatabaseError: (500, "newer-database", "The job database is that of a newer release"),
    service.errors.BackupError: (500, "backup", "A backup can't be made or restored"),
    service.errors.StackError: (500, "stack", "The embedded stack can't be started, found or ended"),
    service.errors.ApiError: (500, "api", "The service refused a client's request, or can't be reached"),
}
"""Status, code and title of every class, as clients have known them since the first version."""


def tree(root: type[Error]) -> set[type[Error]]:
    return {root}.union(*(tree(kind) for kind in root.__subclasses__()))


def test_every_class_has_exactly_one_problem_type() -> None:
    known = {kind for kind in tree(Error) if kind.__module__.partition(".")[0] in ("seqae", "jobs", "service")}
    assert {jobs.errors.NoModel, service.errors.ConflictError} <= known
    assert known == set(PROBLEM_TYPES) == set(ANSWERS)


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_clients_answer_is_as_it_always_was(kind: type[Error]) -> None:
    error = SpecRefusedError((FieldProblem("#/a", "text"),)) if kind is SpecRefusedError else kind("text")
    status, code, title = ANSWERS[kind]
    found = describe("/jobs/x", error)
    assert (found.status, found.type, found.title) == (status, f"urn:seqae:problem:{code}", title)
    assert found.instance == "/jobs/x"
    assert found.detail.endswith("text")


def test_an_error_without_a_text_is_described_by_its_title() -> None:
    assert describe("/jobs/x", service.errors.JobNotFoundError()).detail == "No job has this id"


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in PROBLEM_TYPES.values()]
    assert len(set(codes)) == len(codes)


def test_a_class_without_an_entry_is_described_as_its_base_class() -> None:
    class DamagedPageError(seqae.errors.DataError):
        """A damaged page."""

    assert problem_type(DamagedPageError("x")) is PROBLEM_TYPES[seqae.errors.DataError]


def test_only_what_can_be_tried_again_or_is_a_bug_is_a_5xx() -> None:
    statuses = {kind.status for kind in PROBLEM_TYPES.values()}
    assert {status for status in statuses if status >= 500} == {500, 503}
    assert all(400 <= status <= 429 for status in statuses if status < 500)
