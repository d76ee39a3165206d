"""The app's OpenAPI document: FastAPI's own, with operations by name, examples, and unions told apart by their tag."""

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from seqae.errors import Error
from service.api.access.route_table import RouteTable
from service.api.problems import MEDIA_TYPE, describe, invalid, problem_responses
from service.api.reference.answers import examples
from service.api.reference.operations import OPERATIONS, PARAMETERS, TAGS, Operation
from service.errors import (
    BodyTooLargeError,
    ConflictError,
    CursorError,
    FieldProblem,
    ForbiddenError,
    JobNotFoundError,
    MalformedBodyError,
    MediaTypeError,
    ModelNotFoundError,
    NotAcceptableError,
    OverloadedError,
    QuotaError,
    SlowBodyError,
    SpecRefusedError,
    StoreUnavailableError,
    TokenNotFoundError,
    UnauthorizedError,
    UploadError,
)
from service.schemas.problems import FieldError, Problem

__all__ = ["documented"]

_WITH_EXAMPLES = ("application/json", "text/plain", "text/event-stream")
_METHODS = ("get", "post", "put", "patch", "delete")
_SCHEME = "token"
_TOKENS = (
    "A token that `seqae token create` or `POST /tokens` made, or one of the identity provider. "
    "Where tokens are off, as on the loopback by default, none is needed."
)
_PATH_KIND = re.compile(r":\w+}")
"""Kind of a parameter in a route's path, which OpenAPI leaves out."""
_TAG = "kind"
"""The field by which every union of the wire format is told apart."""


def documented(app: FastAPI, table: RouteTable, *, needs_tokens: bool) -> dict[str, Any]:
    """The app's OpenAPI document; made once.

    Args:
        app: with all of its routes.
        table: of these, with what each needs.
        needs_tokens: whether a token is needed at all.
    """
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        _describe_problems(document)
        _name_tags(document)
        _add_security(document, table, needs_tokens)
        document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
        document["components"]["examples"] = examples() | _problem_examples()
        for path, method, operation in _operations(document):
            _fill(operation, path, OPERATIONS.get(f"{method.upper()} {path}"))
    return app.openapi_schema or {}


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def _add_security(document: dict[str, Any], table: RouteTable, needs_tokens: bool) -> None:
    """Says which operations need a token, and with what scope, by what their routes declare."""
    declared = {(_PATH_KIND.sub("}", route.path), method): route for route in table.routes for method in route.methods}
    document["components"]["securitySchemes"] = {_SCHEME: {"type": "http", "scheme": "bearer", "description": _TOKENS}}
    for path, method, operation in _operations(document):
        scope = declared[path, method.upper()].scope
        if scope is None:
            need, operation["security"] = "Needs no token.", []
        else:
            need = f"Needs a token with the scope `{scope}`."
            # An empty alternative: it may be left out.
            operation["security"] = [{_SCHEME: [str(scope)]}, *([] if needs_tokens else [{}])]
            for status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                operation["responses"].setdefault(str(int(status)), problem_responses(status)[status])
        operation["description"] = f"{operation.get('description', '')}\n\n{need}".strip()


def _describe_problems(document: dict[str, Any]) -> None:
    """Puts problems where FastAPI would describe its own errors."""
    components = document["components"]["schemas"]
    own = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components.update(own.pop("$defs"), Problem=own)
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    for _, _, operation in _operations(document):
        if "application/json" in operation["responses"].get("422", {}).get("content", {}):
            operation["responses"] |= {"422": problem_responses(422)[422]}


def _name_tags(document: dict[str, Any]) -> None:
    """Adds a discriminator to every union whose members have the tag; pydantic leaves it out where a default counts."""
    components = document["components"]["schemas"]
    pending: list[Any] = [document["paths"], components]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            references = [member.get("$ref", "") for member in node.get("oneOf", ()) if isinstance(member, dict)]
            mapping = {_tag_of(components, reference): reference for reference in references}
            if mapping and None not in mapping:
                node["discriminator"] = {"propertyName": _TAG, "mapping": mapping}
            pending += node.values()
        elif isinstance(node, list):
            pending += node


def _tag_of(components: dict[str, Any], reference: str) -> str | None:
    member = components.get(reference.rpartition("/")[2], {})
    tag = member.get("properties", {}).get(_TAG, {}).get("const")
    return tag if isinstance(tag, str) else None


def _fill(operation: dict[str, Any], path: str, known: Operation | None) -> None:
    """Gives an operation its name and examples, as far as the table knows it."""
    known = known or Operation(operation["operationId"], operation["summary"])
    operation |= {"operationId": known.id, "summary": known.title}
    for parameter in operation.get("parameters", ()):
        _fill_parameter(parameter)
    if known.requests:
        _set_examples(operation["requestBody"]["content"]["application/json"], known.requests)
    for status, answer in operation["responses"].items():
        for media_type, content in answer.get("content", {}).items():
            _set_examples(content, _answers_of(known, path, int(status), media_type))


def _answers_of(operation: Operation, path: str, status: int, media_type: str) -> tuple[str, ...]:
    if media_type == MEDIA_TYPE:
        return _problems_of(path, status)
    if status >= HTTPStatus.BAD_REQUEST:
        return ("not_ready",) if path == "/readyz" else ()
    return operation.answers if media_type in _WITH_EXAMPLES else ()


def _set_examples(content: dict[str, Any], names: tuple[str, ...]) -> None:
    if names:
        content["examples"] = {name: {"$ref": f"#/components/examples/{name}"} for name in names}


def _fill_parameter(parameter: dict[str, Any]) -> None:
    text, example = PARAMETERS.get(parameter["name"], (None, None))
    if text is not None:
        parameter.setdefault("description", text)
        parameter.setdefault("example", example)


# --- problems

_PROBLEMS: dict[str, tuple[str, str, Error]] = {
    "malformed_body": ("The body is not JSON", "/jobs", MalformedBodyError("the body is not JSON: Expecting value")),
    "bad_cursor": ("A cursor of another service", "/jobs", CursorError("this service handed out no such cursor")),
    "no_such_job": ("No such job", "/jobs/job_000000000000", JobNotFoundError("there is no job job_000000000000")),
    "no_such_model": ("No such model", "/models/seqae-x", ModelNotFoundError("there is no registered model seqae-x")),
    "unauthorized": ("No token", "/session", UnauthorizedError("the token is not known, has expired, or was revoked")),
    "forbidden": ("Not with this token", "/tokens", ForbiddenError("this needs a token with the scope `admin`")),
    "no_such_token": ("No such token", "/tokens/tok_000000000000", TokenNotFoundError("no token has this id")),
    "not_acceptable": (
        "None of the types asked for",
        "/reconstruct",
        NotAcceptableError("this address answers with application/json, image/gif, image/png, application/x-npz"),
    ),
    "slow_body": ("The body does not come", "/reconstruct", SlowBodyError("the body did not arrive in time")),
    "conflict": ("It has ended", "/jobs/job_4f7k2m9q1x3z", ConflictError("the job is CANCELLED, and stays so")),
    "key_reused": (
        "The same key with another spec",
        "/jobs",
        ConflictError("this Idempotency-Key was used for another request"),
    ),
    "no_previous": (
        "There is none before",
        "/models/seqae-x:rollback",
        ConflictError("seqae-x has no champion before"),
    ),
    "body_too_large": ("Too large", "/jobs", BodyTooLargeError("the body is larger than 64,000 bytes")),
    "media_type": ("Not JSON", "/jobs", MediaTypeError("send application/json, not text/yaml")),
    "spec_refused": (
        "Valid, and more than the cluster has",
        "/jobs",
        SpecRefusedError((FieldProblem("#/scaling/workers", "needs 9 CPUs for 9 workers; the cluster has 2"),)),
    ),
    "upload": ("No image", "/reconstruct", UploadError("is not an image of a known format", part="file")),
    "quota": ("Enough for now", "/jobs", QuotaError("ada has 2,000 jobs that have not ended, which is the limit")),
    "overloaded": ("Busy", "/reconstruct", OverloadedError("64 requests wait for the model already")),
    "unavailable": ("The database is away", "/jobs", StoreUnavailableError("the job database does not answer")),
}
"""By name: title, path and error."""

_INVALID = "invalid_request"
_BY_STATUS: dict[int, tuple[str, ...]] = {
    400: ("malformed_body",),
    401: ("unauthorized",),
    403: ("forbidden",),
    404: ("no_such_job",),
    406: ("not_acceptable",),
    408: ("slow_body",),
    409: ("conflict",),
    413: ("body_too_large",),
    415: ("media_type",),
    422: (_INVALID,),
    429: ("quota",),
    503: ("unavailable",),
}


def _problem_examples() -> dict[str, dict[str, Any]]:
    problems = {name: (title, describe(path, error)) for name, (title, path, error) in _PROBLEMS.items()}
    field = FieldError(pointer="#/model/steps", detail="Input should be less than or equal to 64")
    problems[_INVALID] = ("A field is wrong", invalid("/jobs", (field,)))
    return {
        name: {"summary": title, "value": problem.model_dump(mode="json", exclude_none=True)}
        for name, (title, problem) in problems.items()
    }


def _problems_of(path: str, status: int) -> tuple[str, ...]:
    """Names of the examples of a problem with one status, at one path."""
    match path, status:
        case "/jobs" | "/jobs:validate", 422:
            return (_INVALID, "spec_refused")
        case "/jobs", 409:
            return ("key_reused",)
        case "/jobs", 400:
            return ("malformed_body", "bad_cursor")
        case "/reconstruct", 422:
            return ("upload",)
        case "/reconstruct", 503:
            return ("overloaded",)
        case "/tokens/{token_id}", 404:
            return ("no_such_token",)
        case _, 404 if not path.startswith("/jobs"):
            return ("no_such_model",)
        case _, 409 if not path.startswith("/jobs"):
            return ("no_previous",)
        case _:
            return _BY_STATUS.get(status, ())
