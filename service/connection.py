"""HTTP connection of the client to one service: requests, streams, and whatever goes wrong with them as ApiError."""

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from seqae.errors import Error
from service.errors import ApiError
from service.schemas.problems import Problem

__all__ = [
    "Connection",
    "find_token",
    "header_value",
    "parse_answer",
    "path_segment",
    "read_private_file",
    "write_token",
]

ViewT = TypeVar("ViewT")

_MOST_QUOTED = 2000
_LAST_PORT = 65_535

TOKEN_VARIABLE = "SEQAE_TOKEN"
TOKEN_FILE_VARIABLE = "SEQAE_TOKEN_FILE"

_MOST_TOKEN_BYTES = 10_000


class Connection:
    """HTTP connection to one service.

    Args:
        url: of the service, such as http://127.0.0.1:8400.
        timeout: seconds that an answer may take.
        transport: for tests.
        token: sent with each request; empty: none.

    Raises:
        ApiError: the URL is none, the token can't be sent, or the environment names a proxy that can't be used.
    """

    def __init__(self, url: str, timeout: float, transport: httpx.BaseTransport | None = None, token: str = "") -> None:
        parsed = _parse_url(url)
        self.url = _shown(parsed)
        """The service's address, without a password."""
        headers = {"Authorization": f"Bearer {header_value('the token', token, most=8192)}"} if token else {}
        # A proxy from the environment is right for a service elsewhere, and wrong for one on this machine.
        local = parsed.host in ("127.0.0.1", "localhost", "::1")
        try:
            self._http = httpx.Client(
                base_url=parsed, headers=headers, timeout=timeout, transport=transport, trust_env=not local
            )
        except (ImportError, ValueError) as error:
            raise ApiError(f"the environment's proxy can't be used: {error}") from error

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        files: Mapping[str, tuple[str, bytes, str]] | None = None,
        accepted: Sequence[int] = (),
    ) -> httpx.Response:
        """Sends a request and returns its answer.

        Args:
            method: of HTTP.
            path: below the service's address.
            params: of the query.
            headers: besides the usual ones.
            json: body, as plain data.
            files: parts of a multipart body, each with its name, content and media type.
            accepted: statuses besides 2xx that are answers as well.

        Raises:
            ApiError: it can't be sent, there is no answer, or the service refuses it.
        """
        try:
            request = self._http.build_request(method, path, params=params, headers=headers, json=json, files=files)
        except (TypeError, ValueError, RecursionError, httpx.InvalidURL) as error:
            # A NaN, half a character, an object that JSON does not know, a list in itself.
            raise ApiError(f"this can't be sent: {error}") from error
        try:
            response = self._http.send(request)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if not response.is_success and response.status_code not in accepted:
            raise _refusal(response)
        return response

    def stream(self, path: str, params: Mapping[str, Any]) -> "_Stream":
        """A context manager of the answer to a GET request, read as it comes in; it raises ApiError."""
        return _Stream(self._http, path, params, self._unreachable)

    def _unreachable(self, error: httpx.HTTPError) -> ApiError:
        reason = str(error) or type(error).__name__
        return ApiError(f"no answer from {self.url}: {reason} (`seqae status` tells what runs, `seqae up` starts it)")


class _Stream:
    """Context manager of a streamed response, whose failures become ApiError."""

    def __init__(
        self,
        http: httpx.Client,
        path: str,
        params: Mapping[str, Any],
        unreachable: Callable[[httpx.HTTPError], ApiError],
    ) -> None:
        # No limit on silence: a job may have nothing to say for long.
        timeout = httpx.Timeout(http.timeout.connect, read=None)
        self._context = http.stream("GET", path, params=dict(params), timeout=timeout)
        self._unreachable = unreachable

    def __enter__(self) -> httpx.Response:
        try:
            response = self._context.__enter__()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if not response.is_success:
            response.read()
            self._context.__exit__(None, None, None)
            raise _refusal(response)
        return response

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)
        if isinstance(error, httpx.HTTPError):
            raise self._unreachable(error) from error


def path_segment(text: str) -> str:
    """A name as one segment of a path, whatever is in it.

    Raises:
        ApiError: nothing can have this name.
    """
    if text in ("", ".", ".."):
        raise ApiError(f"{text!r} names nothing", httpx.codes.NOT_FOUND)
    return quote(text, safe="", errors="replace")


def header_value(what: str, value: str, most: int) -> str:
    """The value of a header.

    Args:
        what: the value is, for the error.
        value: of printable ASCII.
        most: letters.

    Raises:
        ApiError: no header can have this value.
    """
    if not re.fullmatch(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", value) or len(value) > most:
        raise ApiError(f"{what} must have 1 to {most} letters, digits and signs of ASCII")
    return value


def parse_answer(response: httpx.Response, view: type[ViewT]) -> ViewT:
    """The wire model in an answer.

    Raises:
        ApiError: there is none; the text names the field, and quotes nothing.
    """
    try:
        return TypeAdapter(view).validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = "/".join(map(str, first["loc"])) or "the answer"
        expectation = f"{_shown(response.url)} does not answer as this version of seqae expects"
        raise ApiError(f"{expectation}: {place}: {first['msg']}") from error


def _parse_url(text: str) -> httpx.URL:
    example = "a service's address looks like http://127.0.0.1:8400"
    try:
        url = httpx.URL(text.strip())
        named = url.scheme in ("http", "https") and bool(url.host)
        url.raw_host.decode("ascii").encode("idna")  # what a socket does with a name, and refuses to do with some
    except (httpx.InvalidURL, ValueError) as error:
        raise ApiError(f"{text[:200]!r} is no URL: {error}; {example}") from error
    if not named or "%" in url.host:
        raise ApiError(f"{text[:200]!r} is no URL of a service; {example}")
    if url.port is not None and not 0 < url.port <= _LAST_PORT:
        raise ApiError(f"{text[:200]!r} has a port that can't be: 1 to {_LAST_PORT}")
    if url.query or url.fragment:
        raise ApiError(f"{text[:200]!r} has more after its path; {example}")
    return url


def _shown(url: httpx.URL) -> str:
    """A URL as it may be printed, without a password."""
    return str(url.copy_with(username=None, password=None)).rstrip("/")


def _refusal(response: httpx.Response) -> ApiError:
    """The error for a problem (RFC 9457), or for whatever else came instead of one."""
    status = response.status_code
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        text = response.text[:_MOST_QUOTED].strip()
        return ApiError(f"{_shown(response.url)} answers {status} {response.reason_phrase}: {text}", status)
    fields = [(field.pointer or field.parameter or "", field.detail) for field in problem.errors or ()]
    if len(fields) == 1 and fields[0][0].removeprefix("#/") in problem.detail:
        fields = []  # it is what the detail says already
    return ApiError("\n".join([problem.detail, *(f"  {place}: {text}" for place, text in fields)]), status)


def find_token(environment: Mapping[str, str]) -> str:
    """The token of SEQAE_TOKEN, or of the file that SEQAE_TOKEN_FILE names; empty where neither is set.

    Raises:
        ApiError: the file can't be read, or others can read it, too.
    """
    token = environment.get(TOKEN_VARIABLE, "").strip()
    name = environment.get(TOKEN_FILE_VARIABLE, "").strip()
    return token if token or not name else _read_token(Path(name).expanduser())


def read_private_file(path: Path, most_bytes: int, called: str, error: type[Error]) -> bytes:
    """Begin of a file with a token, which nobody but its owner may read.

    Args:
        path: of the file.
        most_bytes: no more are read.
        called: what the file is called in the error that it is none.
        error: class of what is raised.

    Raises:
        Error: of that class: it is no regular file, or others can read it, too.
        OSError: it can't be read.
    """
    # Asked of the open file: its name may lead elsewhere a moment later. A pipe would never end.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise error(f"{called} is no file")
        if found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise error(f"{path} has mode {mode:04o}, so others can read the token: `chmod 600 {path}`")
        return file.read(most_bytes)


def _read_token(path: Path) -> str:
    try:
        content = read_private_file(path, _MOST_TOKEN_BYTES, f"{path} ({TOKEN_FILE_VARIABLE})", ApiError)
        return content.decode("ascii").strip()
    except OSError as error:
        raise ApiError(f"{path} ({TOKEN_FILE_VARIABLE}) can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ApiError(f"{path} ({TOKEN_FILE_VARIABLE}) holds no token: it is not ASCII") from error


def write_token(path: Path, token: str) -> None:
    """Writes a token into a new file, which its owner alone can read.

    Raises:
        OSError: it can't be written, or there is such a file already.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(f"{token}\n")
