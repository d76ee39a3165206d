"""Routes of jobs: submission, queries, changes of state, logs and film strips."""

import logging
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response, status
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse

from jobs.directory.layout import JobFolder
from jobs.specs import JobSpec
from jobs.telemetry.log_text import LogDecoder
from seqae.config import NO_NULL
from seqae.errors import Error
from service.api.access.principal import PrincipalDep, needs
from service.api.dependencies import AppContext, ContextDep, JobServiceDep
from service.api.examples import SPECS
from service.api.problems import problem_responses
from service.errors import FrameNotFoundError, MediaTypeError
from service.job_state import State
from service.scheduling.job_service import JobService
from service.scheduling.log_reader import LogEnd
from service.schemas.jobs import AttemptView, FrameList, JobView, Page, PriorityChange, Validation
from service.scopes import Scope

__all__ = ["frame_paths", "frame_response", "only_json", "router"]

_log = logging.getLogger(__name__)

_LOG_POLL_SECONDS = 1.0


def _refuse_other_than_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # The same types that FastAPI parses as JSON.
    if not re.fullmatch(r"application/([^/]+\+)?json", media_type):
        raise MediaTypeError(f"send application/json, not {media_type or 'a body without a content type'}")


router = APIRouter(tags=["jobs"], responses=problem_responses(503))

only_json = [Depends(_refuse_other_than_json)]
"""For a route's `dependencies`: its body is JSON."""
_read, _change = [needs(Scope.READ)], [needs(Scope.SUBMIT)]
_Spec = Annotated[JobSpec, Body(openapi_examples=SPECS)]
_UNKNOWN, _ENDED = problem_responses(404), problem_responses(404, 409)


@router.post(
    "/jobs",
    status_code=status.HTTP_201_CREATED,
    dependencies=[needs(Scope.SUBMIT), *only_json],
    responses=problem_responses(400, 409, 413, 415, 422, 429),
)
def submit(
    spec: _Spec,
    response: Response,
    jobs: JobServiceDep,
    principal: PrincipalDep,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=255, description="the same key and body again give the same job again"),
    ] = None,
    seqae_owner: Annotated[
        str, Header(max_length=200, description="who asks, where tokens are off; quotas count by it")
    ] = "",
    priority: Annotated[int, Query(ge=-1000, le=1000, description="higher goes first")] = 0,
) -> JobView:
    """Accepts a job into the queue."""
    job = jobs.submit(
        spec,
        idempotency_key=idempotency_key,
        owner=principal.owner_or(seqae_owner),
        priority=priority,
        sees_only=principal.sees_only,
    )
    response.headers["Location"] = f"/jobs/{job.id}"
    return job


@router.post(
    "/jobs:validate", dependencies=[needs(Scope.READ), *only_json], responses=problem_responses(400, 413, 415, 422)
)
def validate(spec: _Spec, jobs: JobServiceDep, principal: PrincipalDep) -> Validation:
    """What would run: the spec with every default, workers, steps, about how long, and why it would be refused."""
    return jobs.validate(spec, principal.sees_only)


@router.get("/jobs", dependencies=_read, responses=problem_responses(400, 422))
def list_jobs(
    jobs: JobServiceDep,
    principal: PrincipalDep,
    state: Annotated[list[State] | None, Query(description="only jobs in these states; repeat it for several")] = None,
    owner: Annotated[str | None, Query(max_length=200, pattern=NO_NULL)] = None,
    cursor: Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Page:
    """Jobs, newest first, in pages."""
    own = principal.sees_only
    if own is not None and owner not in (None, own):
        return Page(items=(), next_cursor=None)
    return jobs.list(state or (), cursor, limit, owner if own is None else own)


@router.get("/jobs/{job_id}", dependencies=_read, responses=_UNKNOWN)
def get_job(job_id: str, jobs: JobServiceDep) -> JobView:
    """One job: state, progress, metrics, error, links."""
    return jobs.get(job_id)


@router.get("/jobs/{job_id}/attempts", dependencies=_read, responses=_UNKNOWN)
def list_attempts(job_id: str, jobs: JobServiceDep) -> tuple[AttemptView, ...]:
    """Every try at the job, oldest first."""
    return jobs.attempts(job_id)


@router.post("/jobs/{job_id}/cancel", dependencies=_change, responses=_ENDED)
def cancel(job_id: str, jobs: JobServiceDep) -> JobView:
    """Ends the job. One that runs gets a moment to leave by itself."""
    return jobs.cancel(job_id)


@router.post("/jobs/{job_id}/pause", dependencies=_change, responses=_ENDED)
def pause(job_id: str, jobs: JobServiceDep) -> JobView:
    """Takes the job off the cluster, with a checkpoint, until it is resumed."""
    return jobs.pause(job_id)


@router.post("/jobs/{job_id}/resume", dependencies=_change, responses=_ENDED)
def resume(job_id: str, jobs: JobServiceDep) -> JobView:
    """Puts a paused job back into the queue; it goes on from its newest checkpoint."""
    return jobs.resume(job_id)


@router.post("/jobs/{job_id}/retry", dependencies=_change, responses=_ENDED)
def retry(job_id: str, jobs: JobServiceDep) -> JobView:
    """Tries again: at once if the job waits for its next attempt, as a new job if it failed or was cancelled."""
    return jobs.retry(job_id)


@router.patch(
    "/jobs/{job_id}", dependencies=[*_change, *only_json], responses=problem_responses(400, 404, 409, 415, 422)
)
def change(job_id: str, wanted: PriorityChange, jobs: JobServiceDep) -> JobView:
    """Moves the job in the queue."""
    return jobs.set_priority(job_id, wanted.priority)


@router.delete(
    "/jobs/{job_id}",
    dependencies=_change,
    status_code=status.HTTP_204_NO_CONTENT,
    response_class=Response,
    responses={202: {"description": "it goes as soon as it is cleaned up"}, **_ENDED},
)
def delete(job_id: str, jobs: JobServiceDep) -> Response:
    """Removes an ended job with its files and the data that only it used. Its events and its registered model stay.

    A job that has just ended is still being cleaned up: it goes as soon as that is done. Asking again is harmless.
    """
    gone = jobs.delete(job_id)
    return Response(status_code=status.HTTP_204_NO_CONTENT if gone else status.HTTP_202_ACCEPTED)


@router.get(
    "/jobs/{job_id}/logs",
    dependencies=_read,
    response_class=PlainTextResponse,
    responses={200: {"description": "what the driver printed"}, **_UNKNOWN},
)
async def logs(
    job_id: str,
    jobs: JobServiceDep,
    context: ContextDep,
    attempt: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="the newest one by default")] = None,
    follow: Annotated[bool, Query(description="go on until the attempt has ended")] = False,
    tail: Annotated[int | None, Query(ge=1, le=1_000_000, description="at most so many of the last lines")] = None,
) -> Response:
    """What an attempt's driver printed: the last 1,000,000 bytes at most, from the start of a line on.

    Lines that it wrote as JSON are given as text.
    """
    # Asked once before the answer begins: an unknown job is a problem, not an empty stream.
    found = await run_in_threadpool(jobs.logs, job_id, attempt, tail)
    if not follow:
        return PlainTextResponse(LogDecoder().decode(found.content, final=True))
    return StreamingResponse(_follow(job_id, found, jobs, context), media_type="text/plain; charset=utf-8")


async def _follow(job_id: str, found: LogEnd, jobs: JobService, context: AppContext) -> AsyncIterator[bytes]:
    decoder = LogDecoder()
    if found.end:
        # What the cluster says instead becomes the attempt's log in the end, if its driver prints nothing.
        yield decoder.decode(found.content)
    attempt, sent = found.attempt or 1, found.end
    while not await context.closes_within(_LOG_POLL_SECONDS):
        try:
            # In this order: what was printed before the end is still sent.
            job = await run_in_threadpool(jobs.get, job_id)
            while piece := await run_in_threadpool(jobs.log_after, job_id, attempt, sent):
                yield decoder.decode(piece)
                sent += len(piece)
        except (Error, OSError) as error:
            # The answer has begun, so it can only be cut short.
            _log.warning("logs of %s: %s", job_id, error)
            return
        if job.state.is_terminal or job.attempt > attempt:
            yield decoder.decode(b"", final=True)
            return


@router.get("/jobs/{job_id}/frames", dependencies=_read, responses=_UNKNOWN)
def list_frames(job_id: str, jobs: JobServiceDep) -> FrameList:
    """Which film strips there are: one for each evaluation, made from a few fixed test scenes."""
    jobs.get(job_id)
    return FrameList(steps=tuple(sorted(frame_paths(jobs.folder(job_id)))))


@router.get(
    "/jobs/{job_id}/frames/{step}",
    dependencies=_read,
    response_class=FileResponse,
    responses={200: {"content": {"image/png": {}}}, **_UNKNOWN},
)
def get_frame(job_id: str, step: str, jobs: JobServiceDep) -> FileResponse:
    """A film strip as a PNG: of an iteration, or the `latest`."""
    jobs.get(job_id)
    return frame_response(frame_paths(jobs.folder(job_id)), step, f"job {job_id}")


def frame_paths(folder: JobFolder) -> dict[int, Path]:
    """Film strips of a job or trial by iteration; where a later attempt made one again, that one."""
    return {step: attempt.frames / f"{step}.png" for attempt in folder.attempts() for step in attempt.frame_steps()}


def frame_response(found: Mapping[int, Path], step: str, whose: str) -> FileResponse:
    """A film strip as an answer.

    Args:
        found: as `frame_paths` gives them.
        step: an iteration, or `latest`.
        whose: the job or trial, in words.

    Raises:
        FrameNotFoundError: there is none of that step.
    """
    wanted = str(max(found, default="")) if step == "latest" else step
    path = {str(number): path for number, path in found.items()}.get(wanted)
    if path is None:
        raise FrameNotFoundError(f"{whose} has no film strip {step!r}")
    headers = {"Cache-Control": "no-cache" if step == "latest" else "private, max-age=86400"}
    return FileResponse(path, media_type="image/png", headers=headers)
