"""Entry point of the control plane, `python -m service`: serves the API with settings from `SEQAE_*` variables."""

import gc
import logging
import socket
import sys

import uvicorn
from starlette.applications import Starlette

from jobs.backends.mlflow import MlflowTracking
from jobs.backends.ray import RayLauncher
from seqae.errors import Error
from service.app import create_app
from service.db.store import Store
from service.settings import Settings

__all__ = ["build", "collect_seldom", "main", "run"]

_GRACE_SECONDS = 10
"""Requests that are still answered after so long are cut."""

_IDLE_SECONDS = 60
"""Connections may be idle for so long. Clients should give them up first (httpx does after 5 s): when the server closes
one, it races with the client's next request, which is then lost."""


_COLLECT_EVERY = 50_000
"""Objects made and not freed between two looks for garbage. Python's 700 are reached within one page of jobs, so that
all that the process has ever loaded is searched again and again, at 0.1 s a time."""


class _Server(uvicorn.Server):
    """HTTP server that closes event streams when it begins to stop: waiting for their clients would hold it up."""

    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.context.closing.set()
        await super().shutdown(sockets)


def build(settings: Settings) -> Starlette:
    """The app with the real cluster, database and registry; the database is brought to the newest version."""
    settings.jobs_dir.mkdir(parents=True, exist_ok=True)
    (settings.home / "control").mkdir(parents=True, exist_ok=True)
    store = Store(settings.database, webhook_urls=settings.webhook_urls)
    store.migrate()
    launcher = RayLauncher(settings.ray_url, token_file=settings.ray_token_file, timeout=settings.ray_timeout)
    tracking = MlflowTracking(
        settings.mlflow_url,
        settings.home / "models",
        public_url=settings.mlflow_public_url or None,
        experiment=settings.experiment,
        default_model=settings.default_model,
    )
    return create_app(settings, launcher, store, tracking)


def collect_seldom() -> None:
    """Makes garbage collection rare, and lets it skip what has been loaded so far, which stays anyway."""
    gc.set_threshold(_COLLECT_EVERY, 20, 10)
    gc.freeze()


def run(settings: Settings) -> None:
    """Serves the API until SIGTERM or SIGINT; requests in progress are answered first."""
    app = build(settings)
    collect_seldom()
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        timeout_keep_alive=_IDLE_SECONDS,
        access_log=False,
        log_config=None,
    )
    _Server(config, app).run()


def main() -> int:
    """Serves with settings from the environment; the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # What it retries is logged once, by the caller, when all tries have failed.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        settings = Settings.from_environment()
    except Error as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    run(settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
