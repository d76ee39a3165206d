"""A client of the HTTP API: what the command line uses, and any Python program may."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from httpx_sse import EventSource
from pydantic import BaseModel, ValidationError

from jobs.specs import AnySpec
from seqae.config import Config
from service.errors import ApiError
from service.schemas.jobs import END_OF_EVENTS, Event, FrameList, JobView, Page, Validation
from service.schemas.models import ModelStatus, ReconstructionView

__all__ = ["Client"]

ViewT = TypeVar("ViewT", bound=BaseModel)

_POLL_SECONDS = 1.0
_OUTAGE_SECONDS = 120.0
_LAST_BYTES = 2000


class Client:
    """Talks to one service. Every method may raise ApiError, whose text names each field at fault.

    Args:
        url: of the service, such as http://127.0.0.1:8400.
        timeout: seconds that an answer may take.
        transport: for tests.
    """

    def __init__(self, url: str, timeout: float = 60.0, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        # A proxy from the environment is right for a service elsewhere, and wrong for one on this machine.
        local = httpx.URL(self.url).host in ("127.0.0.1", "localhost", "::1")
        self._http = httpx.Client(base_url=self.url, timeout=timeout, transport=transport, trust_env=not local)

    def close(self) -> None:
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
        """Puts a job into the queue; a spec that was not validated here is validated there."""
        headers = {"Seqae-Owner": owner} if owner else {}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        response = self._call("POST", "/jobs", json=_body(spec), headers=headers, params={"priority": priority})
        return _parse(response, JobView)

    def validate(self, spec: AnySpec | Mapping[str, Any]) -> Validation:
        """What would run, without running it."""
        return _parse(self._call("POST", "/jobs:validate", json=_body(spec)), Validation)

    def get(self, job_id: str) -> JobView:
        return _parse(self._call("GET", _path(job_id)), JobView)

    def list(self, states: Sequence[str] = (), *, limit: int = 50, cursor: str | None = None) -> Page:
        """Jobs, newest first; only those in `states` if any are given."""
        params: dict[str, Any] = {"state": list(states), "limit": limit}
        if cursor is not None:
            params["cursor"] = cursor
        return _parse(self._call("GET", "/jobs", params=params), Page)

    def cancel(self, job_id: str) -> JobView:
        return self._act(job_id, "cancel")

    def pause(self, job_id: str) -> JobView:
        return self._act(job_id, "pause")

    def resume(self, job_id: str) -> JobView:
        return self._act(job_id, "resume")

    def retry(self, job_id: str) -> JobView:
        return self._act(job_id, "retry")

    def _act(self, job_id: str, verb: str) -> JobView:
        return _parse(self._call("POST", f"{_path(job_id)}/{verb}"), JobView)

    def wait(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        until: Callable[[JobView], bool] | None = None,
        seen: Callable[[JobView], None] | None = None,
        poll: float = _POLL_SECONDS,
    ) -> JobView:
        """Follows a job to its end. A service that goes away and comes back within two minutes is waited for.

        Args:
            job_id: of the job.
            timeout: seconds; None waits for ever.
            until: stop earlier, when this is true of the job.
            seen: called with the job each time it was asked for.
            poll: seconds between two questions.

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
                if seen is not None:
                    seen(job)
                if job.state.is_terminal or (until is not None and until(job)):
                    return job
            if timeout is not None and now - began > timeout:
                raise ApiError(f"{job_id} has not got there in {timeout:.0f} s")
            time.sleep(poll)

    def logs(
        self, job_id: str, *, follow: bool = False, attempt: int | None = None, tail: int | None = None
    ) -> Iterator[str]:
        """What the job's newest attempt (or another one) printed last, in pieces as they arrive.

        Args:
            job_id: of the job.
            follow: go on until the attempt has ended.
            attempt: its number.
            tail: at most so many of the last lines; the service gives no more than a megabyte at once.
        """
        wanted = {"follow": follow, "attempt": attempt, "tail": tail}
        params = {name: value for name, value in wanted.items() if value is not None}
        with self._stream(f"{_path(job_id)}/logs", params) as response:
            yield from response.iter_text()

    def events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """What happened to a job, and what happens from now on, until it has ended."""
        with self._stream(f"{_path(job_id)}/events", {"after": after}) as response:
            if response.status_code == httpx.codes.NO_CONTENT:
                return  # it has ended, and nothing is newer
            for message in EventSource(response).iter_sse():
                # A keep-alive comes out as a message without data.
                if message.data and message.event != END_OF_EVENTS:
                    yield Event.model_validate_json(message.data)

    def frames(self, job_id: str) -> tuple[int, ...]:
        """Iterations of which there is a film strip."""
        return _parse(self._call("GET", f"{_path(job_id)}/frames"), FrameList).steps

    def frame(self, job_id: str, step: int | str = "latest") -> bytes:
        """The film strip of an iteration, a PNG."""
        return self._call("GET", f"{_path(job_id)}/frames/{step}").content

    # --- models

    def models(self) -> ModelStatus:
        return _parse(self._call("GET", "/models"), ModelStatus)

    def reconstruct(self, image: bytes | Path, *, model: str = "champion") -> ReconstructionView:
        """What a model makes of an image.

        Args:
            image: an image file, or its content.
            model: "champion", a version, or a job's id.
        """
        return _parse(self._reconstruct(image, model, "application/json"), ReconstructionView)

    def render(self, image: bytes | Path, media_type: str, *, model: str = "champion") -> bytes:
        """The same as a file: image/gif (animation), image/png (film strip) or application/x-npz (arrays)."""
        return self._reconstruct(image, model, media_type).content

    def _reconstruct(self, image: bytes | Path, model: str, media_type: str) -> httpx.Response:
        content = image.read_bytes() if isinstance(image, Path) else image
        files = {"file": ("image", content, "application/octet-stream")}
        return self._call("POST", "/reconstruct", files=files, params={"model": model}, headers={"Accept": media_type})

    # --- HTTP

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if not response.is_success:
            raise _refusal(response)
        return response

    def _stream(self, path: str, params: Mapping[str, Any]) -> "_Stream":
        return _Stream(self._http, path, params, self._unreachable)

    def _unreachable(self, error: httpx.HTTPError) -> ApiError:
        reason = str(error) or type(error).__name__
        return ApiError(f"no answer from {self.url}: {reason} (`seqae status` tells what runs, `seqae up` starts it)")


class _Stream:
    """An answer that is read while it arrives."""

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
    return f"/jobs/{job_id}"


def _parse(response: httpx.Response, view: type[ViewT]) -> ViewT:
    try:
        return view.model_validate_json(response.content)
    except ValidationError as error:
        raise ApiError(f"{response.url} does not answer as this version of seqae expects: {error}") from error


def _refusal(response: httpx.Response) -> ApiError:
    """The error for a problem (RFC 9457), or for whatever else came instead of one."""
    status = response.status_code
    try:
        problem = json.loads(response.content)
        detail = str(problem["detail"])
        fields = [
            (field.get("pointer") or field.get("parameter") or "", field["detail"])
            for field in problem.get("errors") or ()
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        text = response.text[:_LAST_BYTES].strip()
        return ApiError(f"{response.url} answers {status} {response.reason_phrase}: {text}", status)
    if len(fields) == 1 and fields[0][0].removeprefix("#/") in detail:
        fields = []  # it is what the detail says already
    return ApiError("\n".join([detail, *(f"  {place}: {text}" for place, text in fields)]), status)
