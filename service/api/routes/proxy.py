"""Routes of MLflow (`/mlflow/`) and of Ray's dashboard (`/ray/`), through this service's door."""

import re

from fastapi import APIRouter, Request, status
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, StreamingResponse

from service.api.access.access_control import address_of
from service.api.access.principal import PrincipalDep, needs
from service.api.dependencies import ContextDep
from service.db.audit import Actor
from service.errors import ForbiddenError
from service.scopes import Scope
from service.upstream.reverse_proxy import ReverseProxy

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_MLFLOW_READS = re.compile(
    r"ajax-api/[23]\.0/mlflow/((runs|registered-models|model-versions|logged-models|traces|assessments)/search"
    r"|experiments/(search|search-datasets)|metrics/get-history-bulk-interval|datasets/search|ui-telemetry)"
)
"""What MLflow's page asks by POST, and changes nothing."""

_USER_CONTENT = re.compile(r"get-artifact|get-trace-artifact|/artifacts?\b|mlflow-artifacts")
_PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "frame-src 'self' blob: data:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_CONTENT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'self'"
"""Files of runs are anybody's: opened as a page, they may do nothing in the name of this origin."""


@router.get("/mlflow", dependencies=[needs(Scope.READ)])
async def mlflow_start() -> RedirectResponse:
    """The address that its page's own links are relative to."""
    return RedirectResponse("/mlflow/", status_code=308)


@router.get("/ray", dependencies=[needs(Scope.ADMIN)])
async def ray_start() -> RedirectResponse:
    """The address that its page's own links are relative to."""
    return RedirectResponse("/ray/", status_code=308)


@router.get("/mlflow/{path:path}", dependencies=[needs(Scope.READ)])
async def read_mlflow(path: str, request: Request, context: ContextDep, principal: PrincipalDep) -> StreamingResponse:
    """What MLflow answers."""
    if principal.sees_only is not None:
        raise ForbiddenError("jobs are private here, and MLflow shows everybody's: this is for admins")
    return await _pass_on(context.mlflow_proxy, path, request)


@router.post("/mlflow/{path:path}", dependencies=[needs(Scope.READ)])
async def search_mlflow(path: str, request: Request, context: ContextDep, principal: PrincipalDep) -> StreamingResponse:
    """What MLflow answers to a search; anything else that it is asked by POST changes something, and is for admins."""
    if _MLFLOW_READS.fullmatch(path):
        return await read_mlflow(path, request, context, principal)
    who = principal.owner_or("")
    actor = Actor(address_of(request.scope), "POST /mlflow", request.url.path, who, principal.token_id)
    if not principal.may(Scope.ADMIN):
        await run_in_threadpool(context.audit.add, actor, status.HTTP_403_FORBIDDEN, {})
        raise ForbiddenError("changes in MLflow are for admins: this needs a token with the scope `admin`")
    answer = await _pass_on(context.mlflow_proxy, path, request)
    await run_in_threadpool(context.audit.add, actor, answer.status_code, {})
    return answer


@router.api_route("/mlflow/{path:path}", methods=["PUT", "PATCH", "DELETE"], dependencies=[needs(Scope.ADMIN)])
async def change_mlflow(path: str, request: Request, context: ContextDep) -> StreamingResponse:
    """Changes something in MLflow."""
    return await _pass_on(context.mlflow_proxy, path, request)


@router.api_route(
    "/ray/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], dependencies=[needs(Scope.ADMIN)]
)
async def ask_ray(path: str, request: Request, context: ContextDep) -> StreamingResponse:
    """What Ray's dashboard answers; whoever may ask it may run anything on the cluster."""
    return await _pass_on(context.ray_proxy, path, request)


async def _pass_on(proxy: ReverseProxy, path: str, request: Request) -> StreamingResponse:
    answer = await proxy.send(
        request.method, path, request.scope.get("query_string", b""), request.headers.items(), request.stream()
    )
    made = StreamingResponse(answer.body, answer.status)
    made.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    made.headers["Content-Security-Policy"] = _CONTENT_POLICY if _USER_CONTENT.search(path) else _PAGE_POLICY
    made.headers["X-Frame-Options"] = "SAMEORIGIN"
    return made
