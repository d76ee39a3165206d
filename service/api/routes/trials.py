"""Routes of a search's trials: the table, one trial, its film strips, its promotion, and pairs that people compare."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from jobs.errors import NoModel, NoRun
from service.api.access.principal import PrincipalDep, needs
from service.api.dependencies import ContextDep, JobServiceDep
from service.api.problems import problem_responses
from service.api.routes.jobs import frame_paths, frame_response, only_json
from service.api.routes.models import OwnerHeader, ask, moved
from service.errors import ConflictError
from service.scheduling.search import trial_models
from service.schemas.models import MoveRequest, RegisteredModelView
from service.schemas.trials import Comparison, PairPage, TrialPage, TrialView
from service.scopes import Scope

__all__ = ["router"]

router = APIRouter(tags=["jobs"], responses=problem_responses(503))

_UNKNOWN = problem_responses(404, 422)
_read = [needs(Scope.READ)]

_Number = Annotated[int, Path(ge=0, le=100_000, description="number of the trial, counted from 0")]


@router.get("/jobs/{job_id}/trials", dependencies=_read, responses=_UNKNOWN)
def list_trials(
    job_id: str,
    jobs: JobServiceDep,
    after: Annotated[int, Query(ge=-1, le=100_000, description="`next_after` of the page before")] = -1,
    limit: Annotated[int, Query(ge=1, le=1000, description="trials on a page, 1 to 1000")] = 200,
) -> TrialPage:
    """A search's trials by number, in pages, and what the search has found so far."""
    return jobs.trials(job_id, after, limit)


@router.get("/jobs/{job_id}/trials/{number}", dependencies=_read, responses=_UNKNOWN)
def get_trial(job_id: str, number: _Number, jobs: JobServiceDep) -> TrialView:
    """One trial: state, params, metrics, why it ended, and which film strips it has."""
    return jobs.trial(job_id, number)


@router.get(
    "/jobs/{job_id}/trials/{number}/frames/{step}",
    dependencies=_read,
    response_class=FileResponse,
    responses={200: {"content": {"image/png": {}}}, **_UNKNOWN},
)
def get_trial_frame(job_id: str, number: _Number, step: str, jobs: JobServiceDep) -> FileResponse:
    """A film strip of a trial as a PNG: of an iteration, or the `latest`."""
    jobs.trial(job_id, number)
    found = frame_paths(jobs.folder(job_id).trial(number))
    return frame_response(found, step, f"trial {number} of job {job_id}")


@router.get("/jobs/{job_id}/pairs", dependencies=_read, responses=_UNKNOWN)
def list_pairs(
    job_id: str,
    jobs: JobServiceDep,
    limit: Annotated[int, Query(ge=1, le=100, description="pairs at most, 1 to 100")] = 1,
) -> PairPage:
    """Pairs of a search by eye that have no answer yet, those first that say most.

    Both pictures of a pair show the same scenes. Which pair comes first changes with each answer.
    """
    return jobs.pairs(job_id, limit)


@router.post(
    "/jobs/{job_id}/pairs/{pair}",
    dependencies=[needs(Scope.SUBMIT), *only_json],
    responses=problem_responses(400, 404, 409, 413, 415, 422),
)
def answer_pair(
    job_id: str,
    pair: Annotated[int, Path(ge=0, le=100_000_000, description="number of the pair")],
    answer: Comparison,
    jobs: JobServiceDep,
    principal: PrincipalDep,
    seqae_owner: Annotated[str, Header(max_length=200, description="who answers, where tokens are off")] = "",
) -> PairPage:
    """Says which trial of a pair is better; gives the next pair. The same answer again changes nothing."""
    better = None if answer.better == "equal" else answer.better
    jobs.answer(job_id, pair, better, principal.owner_or(seqae_owner))
    return jobs.pairs(job_id)


@router.post(
    "/jobs/{job_id}/trials/{number}:promote",
    dependencies=[needs(Scope.PROMOTE)],
    responses=problem_responses(400, 404, 409, 413, 422, 503),
)
async def promote_trial(
    job_id: str,
    number: _Number,
    jobs: JobServiceDep,
    context: ContextDep,
    principal: PrincipalDep,
    body: MoveRequest | None = None,
    owner: OwnerHeader = "",
) -> RegisteredModelView:
    """Makes a trial's model a version and the champion, whatever won: any point of a Pareto front, for instance.

    The search must have ended. Its test images were not looked at: the version has the trial's metrics on `val`.
    """
    why, owner = body.why if body else "", principal.owner_or(owner)
    found = await run_in_threadpool(jobs.trial_model, job_id, number)
    try:
        await ask(context, lambda: trial_models.promote_trial(context.tracking, found, owner, why))
    except (NoModel, NoRun) as error:
        raise ConflictError(f"trial {number} of job {job_id}: {error}") from error
    return await moved(context, found.name, owner, why)
