"""Route `GET /jobs/{id}/events`: a job's events as a stream of server-sent events."""

import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from seqae.errors import Error
from service.api.access.principal import needs
from service.api.dependencies import AppContext, ContextDep, JobServiceDep
from service.api.problems import problem_responses
from service.errors import JobNotFoundError
from service.job_state import State
from service.scheduling.job_service import JobService
from service.schemas.jobs import END_OF_EVENTS, Event
from service.scopes import Scope

__all__ = ["router"]

router = APIRouter(tags=["jobs"])

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_PING_SECONDS = 15.0
_PAGE = 200


@router.get(
    "/jobs/{job_id}/events",
    dependencies=[needs(Scope.READ)],
    response_class=Response,
    responses={
        200: {"description": "the stream", "content": {"text/event-stream": {}}},
        204: {"description": "it has ended; nothing is newer"},
        **problem_responses(404, 422, 503),
    },
)
async def events(
    job_id: str,
    jobs: JobServiceDep,
    context: ContextDep,
    last_event_id: Annotated[
        int, Header(ge=0, le=2**62, description="the id of the last event that the client has seen")
    ] = 0,
    after: Annotated[int, Query(ge=0, le=2**62, description="the same, for clients that can't set headers")] = 0,
) -> Response:
    """Transitions, progress, metrics, film strips and notices: those so far, then new ones as they happen.

    Each event's `event` is its type, `id` its number and `data` JSON. A client that comes back with `Last-Event-ID`
    misses nothing. When the job has ended, a last event `end` is sent and the stream closes.
    """
    seen = max(last_event_id, after)
    job = await run_in_threadpool(jobs.get, job_id)
    found = await run_in_threadpool(jobs.events, seen, job_id, _PAGE)
    if job.state.is_terminal and not found and seen:
        # Tells a browser's EventSource, which reconnects by itself, to stop.
        return Response(status_code=204)
    return EventSourceResponse(
        _stream(job_id, seen, jobs, context), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    )


async def _stream(job_id: str, seen: int, jobs: JobService, context: AppContext) -> AsyncIterator[bytes]:
    sent_at = time.monotonic()
    while True:
        try:
            # In this order: events written before the job's end are read after it.
            state = await run_in_threadpool(_state, job_id, jobs)
            found = await run_in_threadpool(jobs.events, seen, job_id, _PAGE)
        except Error as error:
            # The answer has begun, so it can only be cut short; the client comes back with the last id it saw.
            _log.warning("events of %s: %s", job_id, error)
            return
        for event in found:
            yield _format(event)
            seen, sent_at = event.id, time.monotonic()
        if len(found) == _PAGE:
            continue
        if state is None or state.is_terminal:
            yield format_sse_event(event=END_OF_EVENTS, data_str=json.dumps({"state": state}))
            return
        if time.monotonic() - sent_at >= _PING_SECONDS:
            # Proxies close connections that are silent.
            yield KEEPALIVE_COMMENT
            sent_at = time.monotonic()
        if await context.closes_within(_POLL_SECONDS):
            return


def _state(job_id: str, jobs: JobService) -> State | None:
    try:
        return jobs.get(job_id).state
    except JobNotFoundError:
        # Deleted meanwhile; its events stay, and the last of them says so.
        return None


def _format(event: Event) -> bytes:
    data = event.model_dump_json(include={"id", "job_id", "at", "type", "data"})
    return format_sse_event(event=event.type, id=str(event.id), data_str=data)
