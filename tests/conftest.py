"""Fixtures of all tests: databases to run against, and a control plane on fakes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from service.settings import ReconcilerSettings
from tests.control_plane import ControlPlane
from tests.postgres import NoPostgresError, PostgresServer, running_postgres

# The same examples each time: what a change broke is then known from what was found by luck.
settings.register_profile("repeatable", derandomize=True, database=None)
settings.load_profile("repeatable")

# --- which tests run beside each other

_WHOLE_MACHINE = {"chaos", "e2e", "fuzz", "integration"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups tests for `pytest -n 2`, which runs each group in one process.

    Those that start clusters and servers are one group, so that there is one of each. Others are grouped by file.
    """
    for item in items:
        room, *_ = Path(item.nodeid).relative_to("tests").parts
        item.add_marker(
            pytest.mark.xdist_group("whole machine" if room in _WHOLE_MACHINE else item.nodeid.partition("::")[0])
        )


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
