"""HTTP client of the service's API, for the command line and for any Python program."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from httpx_sse import EventSource
from pydantic import TypeAdapter, ValidationError

from jobs.specs import AnySpec
from seqae.config import Config
from service.connection import Connection, find_token, header_value, parse_answer, path_segment
from service.errors import ApiError
from service.schemas.access import AuditPage, TokenCreated, TokenView
from service.schemas.cluster import JoinInformation, NodeList
from service.schemas.disk import DiskView, RetentionView
from service.schemas.health import Readiness
from service.schemas.jobs import END_OF_EVENTS, AttemptView, Event, FrameList, JobView, Page, Validation
from service.schemas.models import Invert, MediaType, ModelStatus, ReconstructionView, RegisteredModelView
from service.schemas.trials import PairPage, TrialPage, TrialView
from service.scopes import Scope

__all__ = ["Client"]

_POLL_SECONDS = 1.0
_OUTAGE_SECONDS = 120.0


class Client:
    """HTTP client of one service. Every method may raise ApiError, whose text names each field at fault.

    Args:
        url: of the service, such as http://127.0.0.1:8400.
        timeout: seconds that an answer may take.
        transport: for tests.
        token: of the service; None: what SEQAE_TOKEN says, or the file that SEQAE_TOKEN_FILE names.

    Raises:
        ApiError: the URL is none, or the token can't be read.
    """

    def __init__(
        self,
        url: str,
        timeout: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        *,
        token: str | None = None,
    ) -> None:
        self._connection = Connection(url, timeout, transport, find_token(os.environ) if token is None else token)

    @property
    def url(self) -> str:
        """The service's address, without a password."""
        return self._connection.url

    def close(self) -> None:
        """Closes the connections."""
        self._connection.close()

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
            headers["Idempotency-Key"] = header_value("the idempotency key", idempotency_key, most=255)
        response = self._connection.call(
            "POST", "/jobs", json=_body(spec), headers=headers, params={"priority": priority}
        )
        return parse_answer(response, JobView)

    def validate(self, spec: AnySpec | Mapping[str, Any]) -> Validation:
        """Dry run of a submission: what would run, and why it would be refused."""
        return parse_answer(self._connection.call("POST", "/jobs:validate", json=_body(spec)), Validation)

    def get(self, job_id: str) -> JobView:
        """A job as it is now."""
        return parse_answer(self._connection.call("GET", _path(job_id)), JobView)

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
        return parse_answer(self._connection.call("GET", "/jobs", params=params), Page)

    def attempts(self, job_id: str) -> tuple[AttemptView, ...]:
        """Every try at a job, oldest first."""
        return parse_answer(self._connection.call("GET", f"{_path(job_id)}/attempts"), tuple[AttemptView, ...])

    def trials(self, job_id: str) -> TrialPage:
        """All trials of a search, by number, and what it has found so far."""
        page = self._trial_page(job_id, -1)
        while page.next_after is not None:
            more = self._trial_page(job_id, page.next_after)
            page = more.model_copy(update={"items": (*page.items, *more.items)})
        return page

    def _trial_page(self, job_id: str, after: int) -> TrialPage:
        params = {"after": after, "limit": 1000}
        return parse_answer(self._connection.call("GET", f"{_path(job_id)}/trials", params=params), TrialPage)

    def trial(self, job_id: str, number: int) -> TrialView:
        """One trial of a search, with its film strips."""
        return parse_answer(self._connection.call("GET", f"{_path(job_id)}/trials/{number}"), TrialView)

    def pairs(self, job_id: str, limit: int = 1) -> PairPage:
        """Pairs of a search by eye that people may compare now, those first that say most."""
        return parse_answer(self._connection.call("GET", f"{_path(job_id)}/pairs", params={"limit": limit}), PairPage)

    def answer_pair(self, job_id: str, pair: int, better: int | None, *, owner: str = "") -> PairPage:
        """Says which trial of a pair is better, and gives the next pair.

        Args:
            job_id: of the search.
            pair: its number.
            better: number of the better trial; None: they are equally good.
            owner: who says so.
        """
        body = {"better": "equal" if better is None else better}
        answer = self._connection.call("POST", f"{_path(job_id)}/pairs/{pair}", json=body, headers=_owner(owner))
        return parse_answer(answer, PairPage)

    def set_priority(self, job_id: str, priority: int) -> JobView:
        """Moves a job in the queue; higher goes first."""
        return parse_answer(self._connection.call("PATCH", _path(job_id), json={"priority": priority}), JobView)

    def delete(self, job_id: str) -> None:
        """Removes an ended job with its files."""
        self._connection.call("DELETE", _path(job_id))

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
        return parse_answer(self._connection.call("POST", f"{_path(job_id)}/{verb}"), JobView)

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
        with self._connection.stream(f"{_path(job_id)}/logs", params) as response:
            yield from response.iter_text()

    def events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """Events of a job: those so far, then new ones as they happen, until it has ended.

        Args:
            job_id: of the job.
            after: id of the last event that is known already.
        """
        with self._connection.stream(f"{_path(job_id)}/events", {"after": after}) as response:
            if response.status_code == httpx.codes.NO_CONTENT:
                return  # it has ended, and nothing is newer
            for message in EventSource(response).iter_sse():
                # A keep-alive comes out as a message without data.
                if message.data and message.event != END_OF_EVENTS:
                    yield Event.model_validate_json(message.data)

    def frames(self, job_id: str) -> tuple[int, ...]:
        """Iterations of which there is a film strip, in order."""
        return parse_answer(self._connection.call("GET", f"{_path(job_id)}/frames"), FrameList).steps

    def frame(self, job_id: str, step: int | str = "latest") -> bytes:
        """The film strip of an iteration, a PNG."""
        return self._connection.call("GET", f"{_path(job_id)}/frames/{path_segment(str(step))}").content

    # --- models

    def models(self) -> ModelStatus:
        """All registered models, and those that the service has loaded."""
        return parse_answer(self._connection.call("GET", "/models"), ModelStatus)

    def model(self, name: str) -> RegisteredModelView:
        """A registered model: its versions, its champion, and every decision about that."""
        return parse_answer(self._connection.call("GET", f"/models/{path_segment(name)}"), RegisteredModelView)

    def promote(self, name: str, version: str, *, why: str = "", owner: str = "") -> RegisteredModelView:
        """Makes a version the champion of its model, whatever the promotion rule says.

        Args:
            name: of the registered model.
            version: its number.
            why: for whoever reads the history.
            owner: who asks.
        """
        path = f"/models/{path_segment(name)}/versions/{path_segment(version)}:promote"
        return parse_answer(
            self._connection.call("POST", path, json={"why": why}, headers=_owner(owner)), RegisteredModelView
        )

    def promote_trial(self, job_id: str, number: int, *, why: str = "", owner: str = "") -> RegisteredModelView:
        """Makes the model of a search's trial a version and the champion.

        Args:
            job_id: of the search, which has ended.
            number: of the trial.
            why: for whoever reads the history.
            owner: who asks.
        """
        path = f"{_path(job_id)}/trials/{number}:promote"
        return parse_answer(
            self._connection.call("POST", path, json={"why": why}, headers=_owner(owner)), RegisteredModelView
        )

    def rollback(self, name: str, *, why: str = "", owner: str = "") -> RegisteredModelView:
        """Makes the champion before the champion again.

        Args:
            name: of the registered model.
            why: for whoever reads the history.
            owner: who asks.
        """
        path = f"/models/{path_segment(name)}:rollback"
        return parse_answer(
            self._connection.call("POST", path, json={"why": why}, headers=_owner(owner)), RegisteredModelView
        )

    def reconstruct(
        self, image: bytes | Path, *, model: str = "champion", invert: Invert = Invert.FALSE
    ) -> ReconstructionView:
        """Reconstructs an image, step by step.

        Args:
            image: an image file, or its content.
            model: "champion", NAME, NAME@champion, NAME@challenger, NAME/VERSION, or a job's id.
            invert: whether black and white are exchanged before the model sees it.
        """
        return parse_answer(self._reconstruct(image, MediaType.JSON, model, invert), ReconstructionView)

    def render(
        self,
        image: bytes | Path,
        media_type: MediaType,
        *,
        model: str = "champion",
        invert: Invert = Invert.FALSE,
        on_warning: Callable[[str], None] | None = None,
    ) -> bytes:
        """Reconstructs an image, as a file.

        Args:
            image: an image file, or its content.
            media_type: of the file.
            model: "champion", NAME, NAME@champion, NAME@challenger, NAME/VERSION, or a job's id.
            invert: whether black and white are exchanged before the model sees it.
            on_warning: called with each thing that speaks against trusting the answer.
        """
        response = self._reconstruct(image, media_type, model, invert)
        if on_warning is not None:
            for warning in _warnings(response):
                on_warning(warning)
        return response.content

    def _reconstruct(self, image: bytes | Path, media_type: MediaType, model: str, invert: Invert) -> httpx.Response:
        content = image.read_bytes() if isinstance(image, Path) else image
        files = {"file": ("image", content, "application/octet-stream")}
        # A service of the release before does not know `invert`, and its answer is the same without it.
        params = {"model": model} if invert is Invert.FALSE else {"model": model, "invert": invert.value}
        return self._connection.call("POST", "/reconstruct", files=files, params=params, headers={"Accept": media_type})

    # --- access

    def create_token(
        self, owner: str, scopes: Sequence[Scope], *, name: str = "", days: float | None = None
    ) -> TokenCreated:
        """Makes a token, and gives its secret, which is kept nowhere.

        Args:
            owner: who asks, when a request comes with it.
            scopes: what it is for.
            name: in words.
            days: until it expires; None: never.
        """
        body = {"owner": owner, "scopes": list(scopes), "name": name, "days": days}
        return parse_answer(self._connection.call("POST", "/tokens", json=body), TokenCreated)

    def tokens(self) -> tuple[TokenView, ...]:
        """Every token, newest first, without its secret."""
        return parse_answer(self._connection.call("GET", "/tokens"), tuple[TokenView, ...])

    def revoke_token(self, token_id: str) -> TokenView:
        """Ends a token."""
        return parse_answer(self._connection.call("DELETE", f"/tokens/{path_segment(token_id)}"), TokenView)

    def audit(self, *, before: int | None = None, limit: int = 100) -> AuditPage:
        """A page of the audit log, newest first.

        Args:
            before: `next_before` of the page before.
            limit: rows on a page.
        """
        params = {"limit": limit} if before is None else {"limit": limit, "before": before}
        return parse_answer(self._connection.call("GET", "/audit", params=params), AuditPage)

    # --- the service itself

    def readiness(self) -> Readiness:
        """Whether jobs can be taken and run now, and the state of each part of the service."""
        return parse_answer(
            self._connection.call("GET", "/readyz", accepted=(httpx.codes.SERVICE_UNAVAILABLE,)), Readiness
        )

    def disk(self) -> DiskView:
        """What the service keeps on its disk, by kind, owner and job."""
        return parse_answer(self._connection.call("GET", "/disk"), DiskView)

    def retention(self, *, apply: bool = False) -> RetentionView:
        """Which ended jobs are over a limit now.

        Args:
            apply: remove them; the answer says which were.
        """
        method, path = ("POST", "/retention:apply") if apply else ("GET", "/retention")
        return parse_answer(self._connection.call(method, path), RetentionView)

    def nodes(self) -> NodeList:
        """The machines of the cluster and what runs on them."""
        return parse_answer(self._connection.call("GET", "/nodes"), NodeList)

    def join_information(self) -> JoinInformation:
        """What a machine must know and have to join the cluster; needs a token of an admin where tokens are on."""
        return parse_answer(self._connection.call("GET", "/cluster/join"), JoinInformation)


def _body(spec: AnySpec | Mapping[str, Any]) -> Any:
    return spec.model_dump(mode="json") if isinstance(spec, Config) else dict(spec)


def _path(job_id: str) -> str:
    return f"/jobs/{path_segment(job_id)}"


def _owner(owner: str) -> dict[str, str]:
    return {"Seqae-Owner": header_value("the owner", owner, most=200)} if owner else {}


def _warnings(response: httpx.Response) -> tuple[str, ...]:
    """What the service says against trusting a reconstruction; nothing where the header is not as expected."""
    try:
        return TypeAdapter(tuple[str, ...]).validate_json(response.headers.get("Seqae-Warnings", "[]"))
    except ValidationError:
        return ()
