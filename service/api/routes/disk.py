"""Route `GET /disk`: what the stack keeps on its disk, and whose it is."""

from fastapi import APIRouter

from service.api.dependencies import JobServiceDep
from service.api.problems import problem_responses
from service.schemas.disk import DiskView

__all__ = ["router"]

router = APIRouter(tags=["service"], responses=problem_responses(503))


@router.get("/disk")
def show_disk(jobs: JobServiceDep) -> DiskView:
    """What is kept on the disk, by kind, owner and job, with its quotas; at most a minute old."""
    return jobs.disk()
