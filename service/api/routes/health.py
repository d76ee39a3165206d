"""Routes of health checks: liveness (`/healthz`) and readiness (`/readyz`)."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version

import anyio
import anyio.to_thread
from fastapi import APIRouter, Response

from jobs.errors import TrackingUnavailable
from jobs.interfaces import CHAMPION
from seqae.errors import Error
from service.api.access.principal import public
from service.api.dependencies import AppContext, ContextDep
from service.api.problems import without_addresses
from service.schemas.health import Health, PartStatus, Readiness, Works

__all__ = ["router"]

router = APIRouter(tags=["health"])

log = logging.getLogger(__name__)

_CHECK_SECONDS = 8.0
_VERSION = version("seqae")
_PROBE_BYTES = 65_536


@router.get("/healthz", dependencies=[public()])
async def healthz() -> Health:
    """The process runs. Asks nobody."""
    return Health(version=_VERSION)


@router.get(
    "/readyz",
    dependencies=[public()],
    responses={503: {"model": Readiness, "description": "a required part is not there"}},
)
async def readyz(context: ContextDep, response: Response) -> Readiness:
    """Whether this process can do its own work: it has its database, and room on its disk.

    Without the cluster or MLflow it still takes jobs, which wait, and serves the model that it has loaded; `works` says
    what it does now, `parts` what is missing. The model is not required: a new installation has none, and gets one by
    running a job.
    """
    checks = {"database": _database, "disk": _disk, "cluster": _cluster, "mlflow": _mlflow}
    parts: dict[str, PartStatus] = {}

    async def ask(name: str) -> None:
        parts[name] = PartStatus(ok=False, detail=f"no answer within {_CHECK_SECONDS:g} s", required=name in _REQUIRED)
        with anyio.move_on_after(_CHECK_SECONDS):
            # A registry that hangs takes none of the threads that serve jobs.
            limiter = context.lookups if name == "mlflow" else None
            parts[name] = await anyio.to_thread.run_sync(
                _checked, name, checks[name], context, abandon_on_cancel=True, limiter=limiter
            )

    async with anyio.create_task_group() as group:
        for name in checks:
            group.start_soon(ask, name)
    parts["model"] = _model(context)
    ready = all(part.ok or not part.required for part in parts.values())
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, works=_works(context, parts), parts=parts)


_REQUIRED = ("database", "disk")
"""Without these this process can do nothing that it would not have to take back."""


def _works(context: AppContext, parts: dict[str, PartStatus]) -> Works:
    accept = all(parts[name].ok for name in _REQUIRED)
    return Works(
        accept_jobs=accept,
        run_jobs=accept and parts["cluster"].ok and parts["mlflow"].ok,
        reconstruct=context.inference is not None and context.inference.champion is not None,
    )


def _checked(name: str, check: Callable[[AppContext], str], context: AppContext) -> PartStatus:
    """Runs the check of one part. What it raises, of whatever kind, is the state of that part."""
    required = name in _REQUIRED
    try:
        detail = check(context)
    except (Error, OSError, _NotReadyError) as error:
        # Asked for every few seconds: what stays the same is logged once.
        problem = f"{type(error).__name__}: {error}"
        if context.readiness_problems.get(name) != problem:
            log.warning("%s is not ready: %s", name, problem)
        context.readiness_problems[name] = problem
        own = isinstance(error, _NotReadyError)
        return PartStatus(ok=False, detail=str(error) if own else _PROBLEMS[name], required=required)
    except Exception:
        log.exception("%s is not ready", name)
        return PartStatus(ok=False, detail=_PROBLEMS[name], required=required)
    if context.readiness_problems.pop(name, None) is not None:
        log.info("%s is ready again", name)
    return PartStatus(ok=True, detail=detail, required=required)


_PROBLEMS = {
    "database": "does not answer",
    "disk": "can't be written to",
    "cluster": "does not answer, or has no machine yet; jobs wait for it",
    "mlflow": "does not answer; jobs wait for it, and the model that is loaded is served",
}
"""What clients are told: what the libraries say holds addresses of the inside."""


class _NotReadyError(Exception):
    """A part answers, and can't do its work."""


def _database(context: AppContext) -> str:
    context.store.database.ping()
    return "answers"


def _disk(context: AppContext) -> str:
    """Free space, and whether a file can be written: a quota or a read-only mount shows only then."""
    home, least = context.settings.home, context.settings.min_free_bytes
    free = shutil.disk_usage(home).free
    if free < least:
        raise _NotReadyError(f"{free / 1e6:,.0f} MB are free, less than {least / 1e6:,.0f} MB")
    with tempfile.TemporaryFile(dir=home, buffering=0) as file:
        file.write(bytes(_PROBE_BYTES))
        os.fsync(file.fileno())
    return f"{free / 1e9:,.1f} GB are free"


def _cluster(context: AppContext) -> str:
    capacity = context.cluster.capacity()
    if not capacity.nodes:
        raise _NotReadyError("has no machine; jobs wait for one")
    machines = "machine" if len(capacity.nodes) == 1 else "machines"
    return f"{len(capacity.nodes)} {machines}, {capacity.cpus:g} CPUs, {capacity.gpus:g} GPUs"


def _mlflow(context: AppContext) -> str:
    try:
        context.tracking.resolve(CHAMPION)
    except TrackingUnavailable:
        raise
    except Error:
        # It answers: no champion, or none that can be served, is nothing that keeps jobs from running.
        return "answers; there is no model yet"
    return "answers"


def _model(context: AppContext) -> PartStatus:
    if context.inference is None:
        return PartStatus(ok=True, detail="this process serves no models", required=False)
    detail = without_addresses(context.inference.detail)
    return PartStatus(ok=context.inference.champion is not None, detail=detail, required=False)
