"""Route `GET /disk`: what the stack keeps on its disk, and whose it is."""

from fastapi import APIRouter

from service.api.access.principal import PrincipalDep, needs
from service.api.dependencies import JobServiceDep
from service.api.problems import problem_responses
from service.schemas.disk import DiskView
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
