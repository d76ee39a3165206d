"""Fixture of a whole deployment, of these tests' own: what is killed here is not what other tests use."""

from collections.abc import Iterator

import pytest

from service.local.home import HomeLayout
from tests.chaos.deployment import Deployment, running
from tests.daemons import Daemons
from tests.postgres import PostgresServer


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Deployment]:
    daemons = Daemons(HomeLayout(tmp_path_factory.mktemp("home")))
    with running(daemons, postgres_server) as made:
        yield made
