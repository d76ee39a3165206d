"""Routes of the disk: what the stack keeps there, whose it is, and which ended jobs the limits remove."""

from fastapi import APIRouter

from service.api.access.principal import PrincipalDep, needs
from service.api.dependencies import AppContext, ContextDep, JobServiceDep
from service.api.problems import problem_responses
from service.disk.retention.job_retention import JobRetention
from service.schemas.disk import DiskView, RetentionView
from service.scopes import Scope

__all__ = ["router"]

router = APIRouter(tags=["service"], responses=problem_responses(503))


@router.get("/disk", dependencies=[needs(Scope.READ)])
def show_disk(jobs: JobServiceDep, principal: PrincipalDep) -> DiskView:
    """What is kept on the disk, by kind, owner and job, with its quotas; at most a minute old."""
    view, own = jobs.disk(), principal.sees_only
    if own is None:
        return view
    return view.model_copy(
        update={
            "owners": tuple(owner for owner in view.owners if owner.owner == own),
            "jobs": tuple(job for job in view.jobs if job.owner == own),
        }
    )


@router.get("/retention", dependencies=[needs(Scope.ADMIN)], responses=problem_responses(503))
def show_retention(context: ContextDep) -> RetentionView:
    """Which ended jobs the limits would remove now, and what they have removed; nothing is changed."""
    retention = _retention(context)
    return retention.view(retention.plan())


@router.post("/retention:apply", dependencies=[needs(Scope.ADMIN)], responses=problem_responses(503))
def apply_retention(context: ContextDep) -> RetentionView:
    """Removes the ended jobs that are over a limit now, in place of at the next sweep."""
    retention = _retention(context)
    return retention.view(retention.apply())


def _retention(context: AppContext) -> JobRetention:
    settings = context.settings
    folders = (context.job_service.files, settings.jobs_dir, settings.cache_dir)
    return JobRetention(context.store, *folders, context.tracking, settings)
