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


class Problem(Schema):
    """Problem details (RFC 9457)."""

    type: str = Field(examples=["urn:seqae:problem:job-not-found"])
    title: str
    status: int
    detail: str
    instance: str = Field(examples=["/jobs/job_0123456789ab"])
    errors: tuple[FieldError, ...] | None = None
