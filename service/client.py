"""HTTP client of the service's API, for the command line and for any Python program."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from httpx_sse import EventSource
from pydantic import TypeAdapter, ValidationError

from jobs.specs import AnySpec
from seqae.config import Config
from service.errors import ApiError
from service.schemas.disk import DiskView
from service.schemas.health import Readiness
from service.schemas.jobs import END_OF_EVENTS, AttemptView, Event, FrameList, JobView, Page, Validation
from service.schemas.models import MediaType, ModelStatus, ReconstructionView, RegisteredModelView
from service.schemas.problems import Problem

__all__ = ["Client"]

ViewT = TypeVar("ViewT")

_POLL_SECONDS = 1.0
_OUTAGE_SECONDS = 120.0
_MOST_QUOTED = 2000
_LAST_PORT = 65_535


class Client:
    """HTTP client of one service. Every method may raise ApiError, whose text names each field at fault.

    Args:
        url: of the service, such as http://127.0.0.1:8400.
        timeout: seconds that an answer may take.
        transport: for tests.

    Raises:
        ApiError: the URL is none.
    """

    def __init__(self, url: str, timeout: float = 60.0, transport: httpx.BaseTransport | None = None) -> None:
        parsed = _parse_url(url)
        self.url = _shown(parsed)
        # A proxy from the environment is right for a service elsewhere, and wrong for one on this machine.
        local = parsed.host in ("127.0.0.1", "localhost", "::1")
        try:
            self._http = httpx.Client(base_url=parsed, timeout=timeout, transport=transport, trust_env=not local)
        except (ImportError, ValueError) as error:
            raise ApiError(f"the environment's proxy can't be used: {error}") from error

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- jobs

    def submit(
        self,
        spec: AnySpec | Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        owner: str = "",
        priority: int = 0,
    ) -> JobView:
        """Puts a job into the queue.

        Args:
            spec: of the job; plain data are validated by the service.
            idempotency_key: the same key and spec again give the same job again.
            owner: who asks; quotas count by it.
            priority: higher goes first.
        """
        headers = _owner(owner)
        if idempotency_key is not None:
            headers["Idempotency-Key"] = _header("the idempotency key", idempotency_key, most=255)
        response = self._call("POST", "/jobs", json=_body(spec), headers=headers, params={"priority": priority})
        return _parse(response, JobView)

    def validate(self, spec: AnySpec | Mapping[str, Any]) -> Validation:
        """Dry run of a submission: what would run, and why it would be refused."""
        return _parse(self._call("POST", "/jobs:validate", json=_body(spec)), Validation)

    def get(self, job_id: str) -> JobView:
        """A job as it is now."""
        return _parse(self._call("GET", _path(job_id)), JobView)

    def list(
        self, states: Sequence[str] = (), *, limit: int = 50, cursor: str | None = None, owner: str | None = None
    ) -> Page:
        """A page of jobs, newest first.

        Args:
            states: only jobs in these; all when empty.
            limit: length of the page.
            cursor: `next_cursor` of the page before.
            owner: only jobs of this one.
        """
        params: dict[str, Any] = {"state": list(states), "limit": limit}
        params |= {name: value for name, value in (("cursor", cursor), ("owner", owner)) if value is not None}
        return _parse(self._call("GET", "/jobs", params=params), Page)

    def attempts(self, job_id: str) -> tuple[AttemptView, ...]:
        """Every try at a job, oldest first."""
        return _parse(self._call("GET", f"{_path(job_id)}/attempts"), tuple[AttemptView, ...])

    def set_priority(self, job_id: str, priority: int) -> JobView:
        """Moves a job in the queue; higher goes first."""
        return _parse(self._call("PATCH", _path(job_id), json={"priority": priority}), JobView)

    def delete(self, job_id: str) -> None:
        """Removes an ended job with its files."""
        self._call("DELETE", _path(job_id))

    def cancel(self, job_id: str) -> JobView:
        """Ends a job."""
        return self._act(job_id, "cancel")

    def pause(self, job_id: str) -> JobView:
        """Takes a job off the cluster, with a checkpoint, until it is resumed."""
        return self._act(job_id, "pause")

    def resume(self, job_id: str) -> JobView:
        """Puts a paused job back into the queue."""
        return self._act(job_id, "resume")

    def retry(self, job_id: str) -> JobView:
        """Tries a job again: at once if it waits for that, as a new job if it failed or was cancelled."""
        return self._act(job_id, "retry")

    def _act(self, job_id: str, verb: str) -> JobView:
        return _parse(self._call("POST", f"{_path(job_id)}/{verb}"), JobView)

    def wait(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        until: Callable[[JobView], bool] | None = None,
        on_poll: Callable[[JobView], None] | None = None,
        poll: float = _POLL_SECONDS,
    ) -> JobView:
        """Polls a job until it has ended. A service that goes away and comes back within two minutes is waited for.

        Args:
            job_id: of the job.
            timeout: seconds; None waits for ever.
            until: stop earlier, when this is true of the job.
            on_poll: called with the job after each poll.
            poll: seconds between two polls.

        Returns:
            The job as it was last seen.
        """
        began = answered = time.monotonic()
        while True:
            now = time.monotonic()
            try:
                job = self.get(job_id)
            except ApiError as error:
                passes = error.status is None or error.status >= httpx.codes.INTERNAL_SERVER_ERROR
                if not passes or now - answered > _OUTAGE_SECONDS:
                    raise
            else:
                answered = now
                if on_poll is not None:
                    on_poll(job)
                if job.state.is_terminal or (until is not None and until(job)):
                    return job
            if timeout is not None and now - began > timeout:
                raise ApiError(f"{job_id} has not got there in {timeout:.0f} s")
            time.sleep(poll)

    def logs(
        self, job_id: str, *, follow: bool = False, attempt: int | None = None, tail: int | None = None
    ) -> Iterator[str]:
        """Log of a job's attempt: what its driver printed last, in pieces as they arrive.

        Args:
            job_id: of the job.
            follow: go on until the attempt has ended.
            attempt: its number; the newest one when left out.
            tail: at most so many of the last lines; the service gives no more than a megabyte at once.
        """
        optional = {"follow": follow, "attempt": attempt, "tail": tail}
        params = {name: value for name, value in optional.items() if value is not None}
        with self._stream(f"{_path(job_id)}/logs", params) as response:
            yield from response.iter_text()

    def events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """Events of a job: those so far, then new ones as they happen, until it has ended.

        Args:
            job_id: of the job.
            after: id of the last event that is known already.
        """
        with self._stream(f"{_path(job_id)}/events", {"after": after}) as response:
            if response.status_code == httpx.codes.NO_CONTENT:
                return  # it has ended, and nothing is newer
            for message in EventSource(response).iter_sse():
                # A keep-alive comes out as a message without data.
                if message.data and message.event != END_OF_EVENTS:
                    yield Event.model_validate_json(message.data)

    def frames(self, job_id: str) -> tuple[int, ...]:
        """Iterations of which there is a film strip, in order."""
        return _parse(self._call("GET", f"{_path(job_id)}/frames"), FrameList).steps

    def frame(self, job_id: str, step: int | str = "latest") -> bytes:
        """The film strip of an iteration, a PNG."""
        return self._call("GET", f"{_path(job_id)}/frames/{_segment(str(step))}").content

    # --- models

    def models(self) -> ModelStatus:
        """All registered models, and those that the service has loaded."""
        return _parse(self._call("GET", "/models"), ModelStatus)

    def model(self, name: str) -> RegisteredModelView:
        """A registered model: its versions, its champion, and every decision about that."""
        return _parse(self._call("GET", f"/models/{_segment(name)}"), RegisteredModelView)

    def promote(self, name: str, version: str, *, why: str = "", owner: str = "") -> RegisteredModelView:
        """Makes a version the champion of its model, whatever the promotion rule says.

        Args:
            name: of the registered model.
            version: its number.
            why: for whoever reads the history.
            owner: who asks.
        """
        path = f"/models/{_segment(name)}/versions/{_segment(version)}:promote"
        return _parse(self._call("POST", path, json={"why": why}, headers=_owner(owner)), RegisteredModelView)

    def rollback(self, name: str, *, why: str = "", owner: str = "") -> RegisteredModelView:
        """Makes the champion before the champion again.

        Args:
            name: of the registered model.
            why: for whoever reads the history.
            owner: who asks.
        """
        path = f"/models/{_segment(name)}:rollback"
        return _parse(self._call("POST", path, json={"why": why}, headers=_owner(owner)), RegisteredModelView)

    def reconstruct(self, image: bytes | Path, *, model: str = "champion") -> ReconstructionView:
        """Reconstructs an image, step by step.

        Args:
            image: an image file, or its content.
            model: "champion", NAME, NAME@champion, NAME@challenger, NAME/VERSION, or a job's id.
        """
        return _parse(self._reconstruct(image, model, MediaType.JSON), ReconstructionView)

    def render(self, image: bytes | Path, media_type: MediaType, *, model: str = "champion") -> bytes:
        """Reconstructs an image, as a file.

        Args:
            image: an image file, or its content.
            media_type: of the file.
            model: "champion", NAME, NAME@champion, NAME@challenger, NAME/VERSION, or a job's id.
        """
        return self._reconstruct(image, model, media_type).content

    def _reconstruct(self, image: bytes | Path, model: str, media_type: MediaType) -> httpx.Response:
        content = image.read_bytes() if isinstance(image, Path) else image
        files = {"file": ("image", content, "application/octet-stream")}
        return self._call("POST", "/reconstruct", files=files, params={"model": model}, headers={"Accept": media_type})

    # --- the service itself

    def readiness(self) -> Readiness:
        """Whether jobs can be taken and run now, and the state of each part of the service."""
        return _parse(self._call("GET", "/readyz", accepted=(httpx.codes.SERVICE_UNAVAILABLE,)), Readiness)

    def disk(self) -> DiskView:
        """What the service keeps on its disk, by kind, owner and job."""
        return _parse(self._call("GET", "/disk"), DiskView)

    # --- HTTP

    def _call(
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

    def _stream(self, path: str, params: Mapping[str, Any]) -> "_Stream":
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


def _body(spec: AnySpec | Mapping[str, Any]) -> Any:
    return spec.model_dump(mode="json") if isinstance(spec, Config) else dict(spec)


def _path(job_id: str) -> str:
    return f"/jobs/{_segment(job_id)}"


def _segment(text: str) -> str:
    """A name as one segment of a path, whatever is in it."""
    if text in ("", ".", ".."):
        raise ApiError(f"{text!r} names nothing", httpx.codes.NOT_FOUND)
    return quote(text, safe="", errors="replace")


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


def _owner(owner: str) -> dict[str, str]:
    return {"Seqae-Owner": _header("the owner", owner, most=200)} if owner else {}


def _header(what: str, value: str, most: int) -> str:
    """The value of a header, if it can be one."""
    if not re.fullmatch(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", value) or len(value) > most:
        raise ApiError(f"{what} must have 1 to {most} letters, digits and signs of ASCII")
    return value


def _parse(response: httpx.Response, view: type[ViewT]) -> ViewT:
    try:
        return TypeAdapter(view).validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = "/".join(map(str, first["loc"])) or "the answer"
        expectation = f"{_shown(response.url)} does not answer as this version of seqae expects"
        raise ApiError(f"{expectation}: {place}: {first['msg']}") from error


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
