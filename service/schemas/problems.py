"""Wire models of problem details (RFC 9457), which every answer that is not a success holds."""

from pydantic import Field

from service.schemas.base import Schema

__all__ = ["FieldError", "Problem"]


class FieldError(Schema):
    """What is wrong with one field of a request."""

    pointer: str | None = Field(None, examples=["#/model/steps"])
    """JSON pointer (RFC 6901) of the field in the body."""
    parameter: str | None = Field(None, examples=["limit"])
    """Name of the query parameter, header, path segment or multipart part, where it is not in a JSON body."""
    detail: str
    """What is wrong, in words."""


class Problem(Schema):
    """Problem details (RFC 9457)."""

    type: str = Field(examples=["urn:seqae:problem:job-not-found"])
    """Kind of the problem, for programs: it stays the same from release to release."""
    title: str
    """Kind of the problem, for people."""
    status: int
    """The HTTP status."""
    detail: str
    """What is wrong with this request."""
    instance: str = Field(examples=["/jobs/job_0123456789ab"])
    """Path of the request."""
    errors: tuple[FieldError, ...] | None = None
    """Each field at fault, 50 at most; None if it is not about fields."""
