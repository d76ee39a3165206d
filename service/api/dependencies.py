"""Dependency container of one app, and the annotated FastAPI dependencies that hand it to routes."""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

import anyio
from fastapi import Depends, Request

from jobs.telemetry.tracing import Tracing
from service.api.access.authentication import Authenticator
from service.db.access.tokens import Tokens
from service.db.audit import AuditLog
from service.db.store import Store
from service.inference.decoder_pool import DecoderPool
from service.inference.model_pool import ModelPool
from service.metrics.instruments import Metrics
from service.scheduling.job_service import JobService
from service.settings import Settings
from service.upstream.cluster_monitor import ClusterMonitor
from service.upstream.reverse_proxy import ReverseProxy
from service.upstream.tracking_server import TrackingServer

__all__ = ["AppContext", "ContextDep", "JobServiceDep"]


@dataclass
class AppContext:
    """What the routes of one app work with, wired by `create_app`."""

    settings: Settings
    cluster: ClusterMonitor
    store: Store
    tracking: TrackingServer
    job_service: JobService
    inference: ModelPool | None
    decoders: DecoderPool
    tokens: Tokens
    audit: AuditLog
    mlflow_proxy: ReverseProxy
    ray_proxy: ReverseProxy
    authenticator: Authenticator | None = None
    """None: tokens are off."""
    metrics: Metrics = field(default_factory=Metrics)
    """Instruments that `/metrics` shows."""
    tracing: Tracing = field(default_factory=Tracing)
    """Spans of this process."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server begins to stop: streams end then, instead of holding it up."""
    reconstructing: int = 0
    """Requests for the model whose body has arrived; touched by the event loop only."""
    lookups: anyio.CapacityLimiter | None = None
    """Bounds how many threads ask the model registry at once."""

    readiness_problems: dict[str, str] = field(default_factory=dict)
    """By part, what was wrong when it was looked at last; each is logged once."""

    async def closes_within(self, seconds: float) -> bool:
        """Waits so long, or until the server begins to stop; whether it does."""
        try:
            async with asyncio.timeout(seconds):
                await self.closing.wait()
        except TimeoutError:
            return False
        return True


def _context(request: Request) -> AppContext:
    context = request.app.state.context
    if not isinstance(context, AppContext):
        raise TypeError("the app was not made by create_app")
    return context


def _job_service(context: Annotated[AppContext, Depends(_context)]) -> JobService:
    return context.job_service


ContextDep = Annotated[AppContext, Depends(_context)]
JobServiceDep = Annotated[JobService, Depends(_job_service)]
