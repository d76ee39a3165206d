"""The one place where the control plane is wired together."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anyio
import anyio.to_thread
from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.telemetry import TelemetryConfig
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from jobs.interfaces import Launcher, Tracking
from jobs.storage.job_files import JobFiles, SharedJobFiles, StoredJobFiles
from jobs.storage.locations import open_storage
from jobs.telemetry.log_records import FORMAT_VARIABLE
from jobs.telemetry.tracing import TRACES_VARIABLE, Tracing, make_tracing
from seqae.data.paths import ROOTS_VARIABLE
from service.api.access.access_control import AccessControl
from service.api.access.audit_trail import AuditTrail
from service.api.access.authentication import Authenticator
from service.api.access.principal import public
from service.api.access.route_table import RouteTable
from service.api.body_limit import BodyLimit
from service.api.dependencies import AppContext
from service.api.problems import install
from service.api.reference.openapi import documented
from service.api.request_context import RequestContext
from service.api.request_guard import RequestGuard
from service.api.responses import HeadRequests, RequestMetrics, SecurityHeaders
from service.api.routes import access, disk, events, health, jobs, metrics, models, nodes, proxy, trials
from service.db.access.tokens import Tokens
from service.db.audit import AuditLog
from service.db.outbox import Outbox
from service.db.store import Store
from service.inference.decoder_pool import DecoderPool
from service.inference.model_pool import ModelPool
from service.metrics.instruments import Metrics
from service.reconciler.loop import Reconciler
from service.scheduling.job_service import JobService
from service.scopes import Scope
from service.settings import Settings
from service.upstream.cluster_monitor import ClusterMonitor
from service.upstream.reverse_proxy import MOST_BODY, ReverseProxy
from service.upstream.tracking_server import TrackingServer
from service.webhook_sender import WebhookSender

__all__ = ["create_app"]

_STATIC = Path(__file__).parent / "static"
_PAGE = {
    "/": "index.html",
    "/page.js": "page.js",
    "/page.css": "page.css",
    "/compare": "compare.html",
    "/compare.js": "compare.js",
}
_STOP_SECONDS = 4.0

_BUILT_IN: dict[str, Scope | None] = {
    "/openapi.json": Scope.READ,
    "/docs": Scope.READ,
    "/docs/oauth2-redirect": Scope.READ,
    "/static-offline-docs": None,
}
"""What the framework's own routes need. The last one has scripts that anybody can have elsewhere."""

_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""The framework's own spans and logs have queries and messages of exceptions, wherever a provider is set up."""

_DESCRIPTION = """Trains, tracks and serves an attentive sequential auto-encoder.

Errors are problem details (RFC 9457); `errors` points at each field at fault."""


def create_app(
    settings: Settings,
    launcher: Launcher,
    store: Store,
    tracking: Tracking,
    *,
    inference: ModelPool | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The HTTP API with its background threads, which start and stop with the app.

    Args:
        settings: as the entry point read them.
        launcher: the cluster.
        store: the job database, migrated.
        tracking: runs and models.
        inference: serves the models; made from the settings when left out.
        tracing: makes the spans; made from the settings when left out.

    Raises:
        Error: traces are on, and their packages are not installed.
    """
    tracing = tracing or make_tracing(settings.traces, "api")
    instruments = Metrics()
    cluster = ClusterMonitor(launcher, store.now)
    server = TrackingServer(tracking, store.now, rest=settings.tracking_retry / 2)
    if inference is None and settings.inference:
        inference = ModelPool(server, settings)
    files = _job_files(settings)
    service = JobService(
        store,
        cluster,
        settings.jobs_dir,
        settings,
        settings.model_name,
        cache_dir=settings.cache_dir,
        data_dir=settings.data_dir,
        files=files,
        registry=server,
    )
    decoders = DecoderPool(settings.max_image_pixels, settings.decode_seconds)
    if inference is not None:
        inference.batcher.on_batch = instruments.reconstruct_batch_size.observe
    tokens = Tokens(store.database, store.now)
    authenticator = _authenticator(tokens, settings) if settings.needs_tokens else None
    audit = AuditLog(store.database, store.now)
    context = AppContext(
        settings,
        cluster,
        store,
        server,
        service,
        inference,
        decoders,
        tokens,
        audit,
        mlflow_proxy=ReverseProxy(settings.mlflow_url, "/mlflow"),
        ray_proxy=ReverseProxy(settings.ray_url, "/ray", partial(_ray_headers, settings.ray_token_file)),
        authenticator=authenticator,
        metrics=instruments,
        tracing=tracing,
    )
    # The reference at /docs with its scripts from here: FastAPI's own page loads them from another host.
    app = FastAPIOffline(
        redoc_url=None,
        title="seqae",
        version=version("seqae"),
        description=_DESCRIPTION,
        lifespan=_lifespan(context, _workers(context, files)),
        telemetry=_NO_TELEMETRY,
    )
    app.state.context = context
    table = RouteTable(_BUILT_IN)
    _guard(app, context, table)
    install(app)
    for routes in (jobs, trials, events, models, disk, nodes, access, proxy, health, metrics):
        app.include_router(routes.router)
    app.openapi = lambda: documented(app, table, needs_tokens=settings.needs_tokens)  # type: ignore[method-assign]
    for address, name in _PAGE.items():
        app.add_api_route(address, partial(_file, name), include_in_schema=False, dependencies=[public()])
    table.load(app)
    return app


def _ray_headers(token_file: Path | None) -> dict[str, str]:
    """Ray's own token, read at each request, so that a new one is found. Raises: OSError."""
    return {} if token_file is None else {"Authorization": f"Bearer {token_file.read_text().strip()}"}


def _authenticator(tokens: Tokens, settings: Settings) -> Authenticator:
    """Checks tokens of the database, and those of an identity provider where there is one."""
    if not settings.jwks_url:
        return Authenticator(tokens, is_restricted=settings.private_jobs)
    from service.api.access.web_tokens import JwtVerifier  # its library is not needed otherwise

    return Authenticator(tokens, is_restricted=settings.private_jobs, web_tokens=JwtVerifier(settings))


def _guard(app: FastAPI, context: AppContext, table: RouteTable) -> None:
    """Adds what looks at each request before the routes do; the last one is the first to see it."""
    settings = context.settings
    app.add_middleware(
        BodyLimit,
        default=settings.max_spec_bytes,
        exceptions={"/reconstruct": settings.max_body_bytes, "/mlflow/": MOST_BODY, "/ray/": MOST_BODY},
        seconds=settings.body_timeout,
        most_held=settings.max_held_bytes,
    )
    app.add_middleware(HeadRequests)
    app.add_middleware(
        AccessControl,
        table=table,
        authenticator=context.authenticator,
        jobs=context.store,
        rate=settings.rate_limit,
        burst=settings.rate_burst,
    )
    if settings.cors_origins:
        # Without the page's cookie, which is for this origin alone.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "PATCH", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"),
            expose_headers=("Location", "Retry-After", "Seqae-Warnings", "X-Request-ID"),
        )
    app.add_middleware(
        RequestGuard, allowed_hosts=(settings.host, *settings.allowed_hosts), cors_origins=settings.cors_origins
    )
    app.add_middleware(AuditTrail, table=table, log=context.audit)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestMetrics, metrics=context.metrics)
    app.add_middleware(RequestContext, tracing=context.tracing)


def _file(name: str) -> FileResponse:
    return FileResponse(_STATIC / name, headers={"Cache-Control": "no-cache"})


def _drivers_environment(settings: Settings) -> dict[str, str]:
    """What every driver on the cluster must know of this installation."""
    environment = {
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "SEQAE_CACHE_DIR": str(settings.cache_dir),
        FORMAT_VARIABLE: settings.log_format,
        TRACES_VARIABLE: settings.traces,
    }
    if settings.data_dir is not None:
        environment["SEQAE_DATA_DIR"] = str(settings.data_dir)
    if settings.data_roots:
        environment[ROOTS_VARIABLE] = json.dumps([str(root) for root in settings.data_roots])
    return environment


def _job_files(settings: Settings) -> JobFiles:
    """Jobs' files: in the home, which all machines see, or in a storage. It is not asked yet."""
    if not settings.storage:
        return SharedJobFiles(settings.jobs_dir)
    store = open_storage(settings.storage)
    return StoredJobFiles(settings.jobs_dir, store, settings.storage, settings.copies_dir)


def _workers(context: AppContext, files: JobFiles) -> list[Reconciler | WebhookSender]:
    """What works on the job database in threads of its own."""
    settings, store = context.settings, context.store
    workers: list[Reconciler | WebhookSender] = []
    if settings.reconcile:
        environment = _drivers_environment(settings)
        workers.append(
            Reconciler(
                store,
                context.cluster,
                context.tracking,
                settings.jobs_dir,
                settings,
                environment,
                metrics=context.metrics,
                files=files,
                tracing=context.tracing,
            )
        )
    if settings.webhook_urls and settings.webhook_secret is not None:
        outbox, secret = Outbox(store.database, store.now), settings.webhook_secret.get_secret_value()
        workers.append(WebhookSender(outbox, secret, networks=settings.webhook_networks))
    return workers


def _lifespan(
    context: AppContext, workers: list[Reconciler | WebhookSender]
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        context.lookups = anyio.CapacityLimiter(context.settings.lookup_threads)
        if context.inference is not None:
            context.inference.start()
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            context.closing.set()
            async with anyio.create_task_group() as group:
                for worker in workers:
                    group.start_soon(anyio.to_thread.run_sync, worker.stop, _STOP_SECONDS)
                if context.inference is not None:
                    group.start_soon(anyio.to_thread.run_sync, context.inference.stop)
                group.start_soon(context.decoders.close)
                for proxied in (context.mlflow_proxy, context.ray_proxy):
                    group.start_soon(proxied.close)
            await anyio.to_thread.run_sync(context.tracing.stop)

    return lifespan
