"""Routes of health checks: liveness (`/healthz`) and readiness (`/readyz`)."""

from importlib.metadata import version

import anyio
import anyio.to_thread
from fastapi import APIRouter, Response

from jobs.errors import NoModel
from jobs.interfaces import CHAMPION
from seqae.errors import Error
from service.api.dependencies import AppContext, ContextDep
from service.schemas.health import Health, PartStatus, Readiness

__all__ = ["router"]

router = APIRouter(tags=["health"])

_CHECK_SECONDS = 8.0
_VERSION = version("seqae")


@router.get("/healthz")
async def healthz() -> Health:
    """The process runs. Asks nobody."""
    return Health(version=_VERSION)


@router.get("/readyz", responses={503: {"model": Readiness, "description": "a required part is not there"}})
async def readyz(context: ContextDep, response: Response) -> Readiness:
    """Whether jobs can be taken and run: asks the database, the cluster and the registry, and names what is missing.

    The model is not required: a new installation has none, and gets one by running a job.
    """
    checks = {"database": _database, "cluster": _cluster, "mlflow": _mlflow}
    parts: dict[str, PartStatus] = {}

    async def ask(name: str) -> None:
        parts[name] = PartStatus(ok=False, detail=f"no answer within {_CHECK_SECONDS:g} s")
        with anyio.move_on_after(_CHECK_SECONDS):
            parts[name] = await anyio.to_thread.run_sync(checks[name], context, abandon_on_cancel=True)

    async with anyio.create_task_group() as group:
        for name in checks:
            group.start_soon(ask, name)
    parts["model"] = _model(context)
    ready = all(part.ok or not part.required for part in parts.values())
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, parts=parts)


def _database(context: AppContext) -> PartStatus:
    try:
        context.store.database.ping()
    except Error as error:
        return PartStatus(ok=False, detail=str(error))
    return PartStatus(ok=True, detail="answers")


def _cluster(context: AppContext) -> PartStatus:
    try:
        capacity = context.cluster.capacity()
    except Error as error:
        return PartStatus(ok=False, detail=str(error))
    machines = "machine" if len(capacity.nodes) == 1 else "machines"
    detail = f"{len(capacity.nodes)} {machines}, {capacity.cpus:g} CPUs, {capacity.gpus:g} GPUs"
    return PartStatus(ok=bool(capacity.nodes), detail=detail)


def _mlflow(context: AppContext) -> PartStatus:
    try:
        context.tracking.resolve(CHAMPION)
    except NoModel:
        return PartStatus(ok=True, detail="answers; there is no model yet")
    except Error as error:
        return PartStatus(ok=False, detail=str(error))
    return PartStatus(ok=True, detail="answers")


def _model(context: AppContext) -> PartStatus:
    if context.inference is None:
        return PartStatus(ok=True, detail="this process serves no models", required=False)
    return PartStatus(ok=context.inference.champion is not None, detail=context.inference.detail, required=False)
