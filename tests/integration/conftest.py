"""Fixtures of a real Ray head, MLflow server and control plane, started once for all tests and gone afterwards."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from jobs.backends.mlflow import MlflowTracking
from jobs.backends.ray import RayLauncher
from service.client import Client
from service.local.home import HomeLayout
from tests.daemons import Daemons
from tests.services import Services
from tests.tiny import ON_A_CLUSTER


@pytest.fixture(scope="session")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    made = Daemons(HomeLayout(tmp_path_factory.mktemp("home")))
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="session")
def tracking(daemons: Daemons) -> MlflowTracking:
    """A real MLflow server."""
    daemons.start(daemons.mlflow)
    daemons.wait(daemons.mlflow)
    return MlflowTracking(daemons.mlflow.url, daemons.layout.home / "models")


@pytest.fixture(scope="session")
def services(daemons: Daemons, tracking: MlflowTracking) -> Iterator[Services]:
    """A real Ray head beside it."""
    daemons.start(daemons.ray)
    with RayLauncher(daemons.ray.url, daemons.layout.token) as launcher:
        daemons.wait_for_ray(launcher)
        yield Services(daemons, launcher, tracking)


@pytest.fixture(scope="session")
def control_plane(daemons: Daemons, services: Services) -> Iterator[Client]:
    """The control plane beside them, without a model."""
    environment = {**daemons.api.environment, "SEQAE_INFERENCE": "false"}
    daemon = replace(daemons.api, environment=environment)
    daemons.start(daemon)
    daemons.wait(daemon)
    with Client(daemon.url) as client:
        yield client


@pytest.fixture
def tiny() -> dict[str, Any]:
    """40 iterations in 5 epochs, evaluated at 20 and 40, a checkpoint every 10; one worker."""
    return ON_A_CLUSTER
