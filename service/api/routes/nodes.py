"""Routes of the cluster's machines: which there are (`GET /nodes`), and what one must know to join."""

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool

from jobs.directory.storage_marker import ensure_marker
from service.api.access.principal import PrincipalDep, needs
from service.api.dependencies import ContextDep
from service.api.problems import problem_responses
from service.errors import ClusterClosedError
from service.scheduling.node_views import node_list
from service.schemas.cluster import JoinInformation, NodeList, Versions
from service.scopes import Scope

__all__ = ["router"]

router = APIRouter(tags=["service"], responses=problem_responses(503))


@router.get("/nodes", dependencies=[needs(Scope.READ)])
def list_nodes(context: ContextDep, principal: PrincipalDep) -> NodeList:
    """The machines of the cluster, what they have, and what runs on them; at most two seconds old."""
    return node_list(context.cluster.recent_nodes(), context.store, context.settings.jobs_dir, principal.sees_only)


@router.get("/cluster/join", dependencies=[needs(Scope.ADMIN)], responses=problem_responses(409))
async def show_join_information(context: ContextDep, response: Response) -> JoinInformation:
    """What a machine must know and have to join the cluster: `seqae join` asks for it. Ray's token is not in it."""
    settings = context.settings
    if not settings.head_address:
        raise ClusterClosedError("no machine can join: SEQAE_HEAD_ADDRESS is not set (`seqae up --head` sets it)")
    response.headers["Cache-Control"] = "no-store"
    return JoinInformation(
        head_address=settings.head_address,
        versions=Versions.installed(),
        storage=str(settings.home),
        storage_marker=await run_in_threadpool(ensure_marker, settings.home),
        bucket=settings.storage or None,
        data_dir=None if settings.data_dir is None else str(settings.data_dir),
    )
