"""Everything real, and of this folder's own: what is killed here is not what other tests use."""

from collections.abc import Iterator
from typing import Any

import pytest

from service.local.daemons import HomeLayout
from tests.chaos.plant import Plant, running
from tests.daemons import Daemons


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory, postgres_server: Any) -> Iterator[Plant]:
    daemons = Daemons(HomeLayout(tmp_path_factory.mktemp("home")))
    with running(daemons, postgres_server) as made:
        yield made
