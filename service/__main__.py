"""Entry point of the control plane, `python -m service`: serves the API with settings from `SEQAE_*` variables."""

import gc
import logging
import os
import sys

from starlette.applications import Starlette

from jobs.backends.kubernetes.launcher import KubernetesLauncher
from jobs.backends.kubernetes.objects import KubernetesCredentials
from jobs.backends.kubernetes.template import ClusterTemplate
from jobs.backends.loopback import loopback_unproxied
from jobs.backends.mlflow import MlflowTracking
from jobs.backends.ray import RayLauncher
from jobs.errors import StorageRefused, StorageUnavailable
from jobs.interfaces import Launcher
from jobs.storage.locations import check_storage, open_storage
from jobs.telemetry.log_records import FORMAT_VARIABLE, configure_logging, format_named
from seqae.errors import Error
from service.app import create_app
from service.db.access.tokens import Tokens
from service.db.store import Store
from service.server import Server, ServerConfig
from service.settings import LauncherKind, Settings, is_loopback

__all__ = ["build", "collect_seldom", "main", "run"]

_PROXIED_MLFLOW = "/mlflow"
"""Links to runs go through this service where it has a door: below its own address."""

_COLLECT_EVERY = 50_000
"""Objects made and not freed between two looks for garbage. Python's 700 are reached within one page of jobs, so that
all that the process has ever loaded is searched again and again, at 0.1 s a time."""


def build(settings: Settings) -> Starlette:
    """The app with the real cluster, database and registry; the database is brought to the newest version."""
    for folder in (settings.home, settings.jobs_dir, settings.home / "control"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_storage(settings)
    store = Store(settings.database, webhook_urls=settings.webhook_urls)
    store.migrate()
    _refuse_to_be_locked(settings, store)
    launcher = _launcher(settings)
    tracking = MlflowTracking(
        settings.mlflow_url,
        settings.home / "models",
        public_url=settings.mlflow_public_url or (_PROXIED_MLFLOW if settings.needs_tokens else None),
        experiment=settings.experiment,
        default_model=settings.default_model,
    )
    return create_app(settings, launcher, store, tracking)


def _check_storage(settings: Settings) -> None:
    """Says what is wrong with the storage before jobs wait for it. One that does not answer may come back.

    Raises:
        Error: the bucket, the credentials or a permission are missing.
    """
    if settings.storage:
        try:
            check_storage(open_storage(settings.storage))
        except StorageUnavailable as error:
            logging.getLogger(__name__).warning("SEQAE_STORAGE: %s; jobs wait for it", error)
        except StorageRefused as error:
            raise Error(f"SEQAE_STORAGE: {error}") from error


def _launcher(settings: Settings) -> Launcher:
    """What runs attempts. Raises: Error: its settings can't be used."""
    if settings.launcher is LauncherKind.RAY:
        return RayLauncher(settings.ray_url, token_file=settings.ray_token_file, timeout=settings.ray_timeout)
    if settings.kubernetes_template is None:
        raise Error("SEQAE_LAUNCHER=kubernetes needs SEQAE_KUBERNETES_TEMPLATE, a file with a RayCluster manifest")
    return KubernetesLauncher(
        ClusterTemplate.load(settings.kubernetes_template),
        KubernetesCredentials(settings.kubernetes_url, settings.kubernetes_credentials, settings.kubernetes_namespace),
        settings.kubernetes_labels,
        timeout=settings.ray_timeout,
    )


def _refuse_to_be_locked(settings: Settings, store: Store) -> None:
    """Refuses to start where every request needs a token, and there is none that would let anybody in.

    Raises:
        Error: with what to do about it.
    """
    if settings.needs_tokens and not settings.jwks_url and not Tokens(store.database, store.now).any_usable():
        why = "SEQAE_TOKENS is on" if is_loopback(settings.host) else f"{settings.host} can be reached from elsewhere"
        raise Error(
            f"every request needs a token, since {why}, and there is none that could be used. Make the first one: "
            f"`seqae token create --owner NAME --scope admin --home {settings.home}` (it prints the secret once), "
            "or name an identity provider's keys with SEQAE_JWKS_URL"
        )


def collect_seldom() -> None:
    """Makes garbage collection rare, and lets it skip what has been loaded so far, which stays anyway."""
    gc.set_threshold(_COLLECT_EVERY, 20, 10)
    gc.freeze()


def run(settings: Settings) -> None:
    """Serves the API until SIGTERM or SIGINT; requests in progress are answered first."""
    app = build(settings)
    collect_seldom()
    Server(ServerConfig(app, settings), app.state.context.closing.set).run()


def main() -> int:
    """Serves with settings from the environment; the exit status."""
    # Before the settings are read, so that what is wrong with them is said in the same format.
    configure_logging(format_named(os.environ.get(FORMAT_VARIABLE)))
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # What it retries is logged once, by the caller, when all tries have failed.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    # Databases and job folders are for this user alone; MLflow's client is the only one here that knows proxies.
    os.umask(0o077)
    os.environ.update(loopback_unproxied(os.environ))
    try:
        settings = Settings.from_environment()
    except Error as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    try:
        run(settings)
    except Error as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
