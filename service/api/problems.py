"""Exception handlers that answer every error with problem details (RFC 9457), which name each field at fault."""

import json
import logging
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from jobs.telemetry.log_records import current_request
from seqae.errors import Error
from service.api.json_pointers import MOST_PROBLEMS, body_problems
from service.errors import AnswerError, FieldProblem, MalformedBodyError, SpecRefusedError, UploadError, problem_type
from service.schemas.problems import FieldError, Problem

__all__ = [
    "MEDIA_TYPE",
    "REQUEST_ID_HEADER",
    "SECURITY_HEADERS",
    "describe",
    "install",
    "invalid",
    "problem_responses",
    "render",
    "retry_headers",
    "without_addresses",
]

_log = logging.getLogger(__name__)

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

_ADDRESS = re.compile(r"\w+://|\bhost\b|\bport\b|\bserver at\b|\d+(?:\.\d+){3}|\w:\d{2,5}\b", re.IGNORECASE)
"""Marks of an address in what a library says."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""By these, browsers do nothing with an answer but show it."""

MEDIA_TYPE = "application/problem+json"
REQUEST_ID_HEADER = "X-Request-ID"
RETRY_SECONDS = 2
"""What `Retry-After` says where trying again helps."""


def install(app: FastAPI) -> None:
    """Registers the exception handlers: every error, our own or the framework's, is answered with a problem."""
    app.add_exception_handler(Error, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_unexpected)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI descriptions of answers with a problem, by status: for a route's `responses`."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: schema}} for status in statuses}


def render(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """The HTTP response that holds a problem."""
    # Escaped to ASCII: a client's own field name may hold half of a surrogate pair, which UTF-8 can't carry.
    content = json.dumps(problem.model_dump(mode="python", exclude_none=True), ensure_ascii=True)
    return Response(content, problem.status, headers, media_type=MEDIA_TYPE)


def describe(path: str, error: Error) -> Problem:
    """The problem for an error of our own tree."""
    kind = problem_type(error)
    errors: tuple[FieldError, ...] | None = None
    detail = str(error)
    if kind.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # What libraries say of an outage holds addresses of the inside; it is in the log.
        detail = without_addresses(detail, otherwise=kind.title)
    if isinstance(error, SpecRefusedError):
        errors = _fields(error.problems)
    elif isinstance(error, AnswerError):
        errors = (FieldError(pointer="#/better", detail=detail),)
    elif isinstance(error, UploadError):
        errors = (FieldError(pointer=error.pointer or None, parameter=error.part or None, detail=detail),)
        detail = f"{_place(errors[0])}: {detail}"
    return Problem(
        type=f"urn:seqae:problem:{kind.code}",
        title=kind.title,
        status=kind.status,
        detail=detail or kind.title,
        instance=path,
        errors=errors,
    )


def without_addresses(text: str, otherwise: str = "does not answer; the log says more") -> str:
    """A message, unless it names an address, a host or a port of the inside: then another one."""
    return text if _ADDRESS.search(text) is None else otherwise


def _fields(problems: Iterable[FieldProblem]) -> tuple[FieldError, ...]:
    return tuple(FieldError(pointer=problem.pointer, detail=problem.detail) for problem in problems)


async def _on_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, Error):
        raise TypeError(f"not one of our errors: {error!r}")
    problem = describe(request.url.path, error)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.warning("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        problem = _internal(request.url.path)
    return render(problem, retry_headers(problem.status))


def retry_headers(status: int) -> dict[str, str]:
    """`Retry-After`, where trying again helps."""
    helps = status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
    return {"Retry-After": str(RETRY_SECONDS)} if helps else {}


async def _on_invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise TypeError(f"not a validation error: {error!r}")
    raw = list(error.errors()[: 4 * MOST_PROBLEMS])
    if any(item["type"] == "json_invalid" for item in raw):
        return render(_not_json(request.url.path, _where(error)))
    in_body = [{**item, "loc": item["loc"][1:]} for item in raw if item["loc"][0] == "body"]
    elsewhere = [item for item in raw if item["loc"][0] != "body"]
    fields = tuple(FieldError(parameter=str(item["loc"][1]), detail=item["msg"]) for item in elsewhere)
    fields += _fields(body_problems(in_body, error.body))
    return render(invalid(request.url.path, fields))


def invalid(path: str, fields: tuple[FieldError, ...]) -> Problem:
    """The problem of a request whose fields are at fault."""
    first = fields[0]
    more = f", and {len(fields) - 1} more" if len(fields) > 1 else ""
    return Problem(
        type="urn:seqae:problem:invalid-request",
        title="Invalid request",
        status=HTTPStatus.UNPROCESSABLE_ENTITY,
        detail=f"{_place(first)}: {first.detail}{more}",
        instance=path,
        errors=fields,
    )


def _place(field: FieldError) -> str:
    if field.pointer is None:
        return str(field.parameter)
    return field.pointer.removeprefix("#/") if field.pointer != "#" else "the body"


def _where(error: RequestValidationError) -> str:
    item = error.errors()[0]
    text, position = str(error.body), int(item["loc"][-1])
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    return f"{item['ctx']['error']} at line {line}, column {column}"


def _not_json(path: str, why: str) -> Problem:
    detail = f"the body is not JSON: {why}"
    return Problem(
        type="urn:seqae:problem:malformed-body",
        title="Malformed body",
        status=HTTPStatus.BAD_REQUEST,
        detail=detail,
        instance=path,
        errors=(FieldError(pointer="#", detail=detail),),
    )


async def _on_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise TypeError(f"not an HTTP error: {error!r}")
    status = HTTPStatus(error.status_code)
    if isinstance(error.__cause__, ValueError | RecursionError):
        # Not text, an endless number, a thousand brackets: what FastAPI doesn't take for an error of JSON itself.
        return render(_not_json(request.url.path, str(error.__cause__)))
    detail, headers = str(error.detail), dict(error.headers or {})
    if status == HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.url.path}; /docs lists what there is"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.url.path} does not take {request.method}"
        headers["Allow"] = ", ".join(_methods(request))
    problem = Problem(type="about:blank", title=status.phrase, status=status, detail=detail, instance=request.url.path)
    return render(problem, headers)


def _methods(request: Request) -> list[str]:
    """What the request's address takes, over all routes: the framework names those of one route only."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    routes = request.app.routes
    found = [name for name, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)]
    # HEAD is answered wherever GET is, by a middleware.
    return ["GET", "HEAD", *(name for name in found if name not in ("GET", "HEAD"))] if "GET" in found else found


async def _on_disconnect(request: Request, _error: Exception) -> Response:
    # The client left while it sent its body: nobody reads this, and nothing went wrong here.
    return render(describe(request.url.path, MalformedBodyError("the body ends too early")))


async def _on_unexpected(request: Request, _error: Exception) -> Response:
    # Starlette raises the exception again after this answer, and the server logs it with its traceback. It is made
    # outside of all middleware.
    headers = dict(SECURITY_HEADERS)
    if (request_id := current_request.get()) is not None:
        headers[REQUEST_ID_HEADER] = request_id
    return render(_internal(request.url.path), headers)


def _internal(path: str) -> Problem:
    return Problem(
        type="about:blank",
        title=HTTPStatus.INTERNAL_SERVER_ERROR.phrase,
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        detail="the service failed to do this; its log says why",
        instance=path,
    )
