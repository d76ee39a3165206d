"""Fixtures of all tests: databases to run against, and a control plane on fakes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from service.settings import ReconcilerSettings
from tests.control_plane import ControlPlane
from tests.postgres import NoPostgresError, PostgresServer, running_postgres

# The same examples each time: what a change broke is then known from what was found by luck.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.load_profile("repeatable")

# --- which tests run beside each other

_WHOLE_MACHINE = {"chaos", "e2e", "fuzz", "integration"}


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Hands tests out in groups for `pytest -n 2`, each of which runs in one process."""
    return _GroupScheduling(config, log)


class _GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Tests that start clusters and servers are one group, so that there is one of each; others are grouped by file."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, _ = nodeid.partition("::")
        return "whole machine" if Path(file).parts[1] in _WHOLE_MACHINE else file


# --- processor


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Gives this thread denormal numbers again where a test computed something; hypothesis draws them."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


# --- databases


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A PostgreSQL server that all tests share."""
    with _postgres_or_skip() as server:
        yield server


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that the test may stop and start."""
    with _postgres_or_skip() as server:
        yield server


@contextmanager
def _postgres_or_skip() -> Iterator[PostgresServer]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running_postgres())
        except NoPostgresError as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a new, empty database: every test that takes it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    return str(request.getfixturevalue("postgresql").new_database())


# --- a control plane on fakes


@pytest.fixture
def make_plane() -> Callable[[Path], ControlPlane]:
    """Makes a control plane on fakes in a folder."""
    settings = ReconcilerSettings(retry_wait=2.0)
    return lambda root: ControlPlane(root, f"sqlite:///{root / 'jobs.db'}", settings)


@pytest.fixture
def plane(tmp_path: Path, make_plane: Callable[[Path], ControlPlane]) -> Iterator[ControlPlane]:
    """A control plane on fakes."""
    made = make_plane(tmp_path)
    yield made
    made.store.close()
