"""A control plane on real HTTP, with a fake cluster and a fake registry behind it."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from jobs.backends.fakes import FakeLauncher, FakeTracking
from service.app import create_app
from service.db.store import Store
from service.inference.model_pool import ModelPool
from service.server import Server, ServerConfig
from service.settings import Settings

Serve = Callable[[FastAPI], httpx.Client]
MakeApp = Callable[..., FastAPI]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, champion_poll=0.05, reconcile=False)


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def tracking() -> FakeTracking:
    return FakeTracking()


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    (settings.home / "control").mkdir()
    store = Store(settings.database)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def make_app(settings: Settings, launcher: FakeLauncher, store: Store, tracking: FakeTracking) -> MakeApp:
    """An app with other settings, or another inference, than the usual ones."""

    def make(inference: ModelPool | None = None, **changes: object) -> FastAPI:
        return create_app(settings.model_copy(update=changes), launcher, store, tracking, inference=inference)

    return make


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Runs an app in a thread; a client of it."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(_served(app))


@pytest.fixture
def client(make_app: MakeApp, serve: Serve) -> httpx.Client:
    """A client of a server that has no model."""
    return serve(make_app())


@contextmanager
def _served(app: FastAPI) -> Iterator[httpx.Client]:
    started = threading.Event()
    context = app.state.context
    config = ServerConfig(app, context.settings.model_copy(update={"host": "127.0.0.1", "port": 0}))
    config.timeout_graceful_shutdown = 1
    server = _Announcing(config, context.closing.set, started)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(20), "the server did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
            yield client
    finally:
        context.closing.set()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


class _Announcing(Server):
    def __init__(self, config: ServerConfig, on_stop: Callable[[], None], started: threading.Event) -> None:
        super().__init__(config, on_stop)
        self._announced = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announced.set()
